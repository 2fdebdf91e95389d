"""The first process of each pod: it waits, and ends when it is asked to."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from edgecore.pods.cri import archive, pause

NAME = "registry.k8s.io/pause:3.6"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_waits_until_it_is_asked_to_end(tmp_path: Path, number: signal.Signals) -> None:
    machine = pause.of_this_machine()
    assert machine is not None
    program = tmp_path / "pause"
    program.write_bytes(pause.program(machine))
    program.chmod(0o755)

    running = subprocess.Popen([str(program)])
    running.send_signal(signal.SIGCHLD)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.2)
    running.send_signal(number)

    assert running.wait(5) == 0


@pytest.mark.parametrize("machine", pause.MACHINES.values(), ids=lambda m: m.name)
def test_the_archive_names_its_image(tmp_path: Path, machine: pause.Machine) -> None:
    path = tmp_path / "pause.tar"
    path.write_bytes(pause.archive(NAME, machine))

    assert archive.references_in(path) == [NAME]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"sandboxImage": NAME}, NAME),
        ({"pinnedImages": {"sandbox": NAME}}, NAME),
        ({"images": {"pinnedImages": {"sandbox": NAME}}}, NAME),
        ({}, ""),
        ([], ""),
    ],
)
def test_the_runtime_says_which_image_it_wants(config: object, found: str) -> None:
    assert pause.wanted(json.dumps(config)) == found


def test_a_status_without_configuration_wants_nothing() -> None:
    assert pause.wanted("") == ""
