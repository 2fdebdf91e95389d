"""The table of pod commands, each by kubectl 1.29 to 1.33, against a gateway; and the commands that need a terminal or stay open.

All of it with containerd and as plain processes, these by the oldest and the newest kubectl only.
"""

import hashlib
import os
import pty
import re
import socket
import subprocess
import termios
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.kit.fleet import Fleet, container, fleet, pod
from tests.kit.kubectl import VERSIONS, until

TABLE = Path(__file__).with_name("pod_commands.toml")
COUNTS = "n=0; while true; do echo line $n; n=$((n+1)); sleep 0.2; done"
TWICE = "if [ -e /kept/been ]; then echo life two; exec sleep 100000; fi; touch /kept/been; echo life one; exit 3"
SERVES = "while true; do echo served | nc -l -p 8080; done"
BLOB = bytes(range(256)) * 4000


@dataclass(frozen=True)
class Case:
    """One row; the file's head explains the fields."""

    name: str
    run: str
    before: str = ""
    stdin: str = ""
    exit: int | str = 0
    out: str = ""
    err: str = ""
    absent: str = ""
    then: list[list[str]] = field(default_factory=list)


CASES = [Case(**row) for row in tomllib.loads(TABLE.read_text())["case"]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask the versions that a class names."""
    if "version" in metafunc.fixturenames:
        metafunc.parametrize("version", metafunc.cls.versions)


@pytest.fixture(scope="class")
def site(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with fleet("gw-1", runtime=request.cls.runtime) as one:
        begin(one)
        yield one


def begin(site: Fleet) -> None:
    """Start what the table speaks of."""
    kept = {"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}
    sides = [
        container(side, "sh", "-c", f"echo from the {side}; exec sleep 100000", env=[{"name": "SIDE", "value": side}])
        for side in ("left", "right")
    ]
    site.apply(
        pod("talks", container("main", "sh", "-c", COUNTS)),
        pod("waits"),
        pod("again", container("main", "sh", "-c", TWICE, **kept), volumes=[{"name": "kept", "emptyDir": {}}]),
        pod("pair", *sides),
        pod("echoes", container("main", "cat", stdin=True)),
        pod("shell", container("main", "sh", stdin=True, tty=True)),
        pod("serves", container("main", "sh", "-c", SERVES)),
    )
    (site.folder / "file").write_bytes(BLOB)
    (site.folder / "folder" / "a").mkdir(parents=True)
    (site.folder / "folder" / "a" / "b").write_text("deep")
    site.say("wait --for=condition=Ready pod/talks pod/waits pod/pair pod/echoes pod/shell pod/serves --timeout=50s")
    site.eventually(lambda: re.search("again +1/1 +Running +1 ", site.say("get pod again")), 40)
    site.eventually(lambda: site.run("top pod talks").returncode == 0, 30)
    site.eventually(lambda: "line 25\n" in site.say("logs talks"), 40)  # so its first line is old


def fill(site: Fleet, version: str, text: str) -> str:
    words = {"@V@": version.replace(".", ""), "@DIR@": str(site.folder), "@SUM@": hashlib.sha256(BLOB).hexdigest()}
    for mark, value in words.items():
        text = text.replace(mark, value)
    return text


def shows(site: Fleet, version: str, command: str, wanted: str) -> bool:
    said = site.run(fill(site, version, command), version=version)
    return re.search(fill(site, version, wanted), said.stdout) is not None


def at_a_terminal(site: Fleet, version: str, words: str, typed: str, wanted: str, *, detach: bool = False) -> str:
    """Type something into a command that believes in a person; what was on the screen when ``wanted`` was there."""
    kubectl = site.kubectl(version)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 101))
    process = subprocess.Popen(
        kubectl.argv(words), stdin=theirs, stdout=theirs, stderr=theirs, env=kubectl.environment(None), close_fds=True
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    screen = ""

    def shows() -> bool:
        nonlocal screen
        with suppress(BlockingIOError):
            screen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(ours, 65536).decode(errors="replace"))
        return bool(re.search(rf"^{wanted}\r?$", screen, re.MULTILINE))

    try:
        until(lambda: shows() or re.search(r"[#$] ?\Z|pressing enter", screen), 20)
        os.write(ours, typed.encode())
        until(shows, 20)
        if not detach:
            os.write(ours, b"exit\n")
            assert process.wait(20) == 0
    except AssertionError as error:
        raise AssertionError(f"{error}; on the screen: {screen!r}") from error
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return screen


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.settimeout(10)
        return sock.recv(100)


class PodCommands:
    """The suite. ``versions``: of kubectl."""

    runtime: str
    versions: tuple[str, ...]
    says: str  # the Node, of its runtime

    def test_the_pods_run_with_this_runtime(self, site: Fleet) -> None:
        assert site.get("node gw-1")["status"]["nodeInfo"]["containerRuntimeVersion"].startswith(self.says)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
    def test_a_command_of_the_table(self, site: Fleet, case: Case, version: str) -> None:
        if case.before:
            site.say(fill(site, version, case.before), version=version)
        done = site.run(fill(site, version, case.run), case.stdin, version)

        shown = f"exit {done.returncode}\n--- out\n{done.stdout}\n--- err\n{done.stderr}"
        assert re.fullmatch(str(case.exit), str(done.returncode)), shown
        assert re.search(fill(site, version, case.out), done.stdout, re.MULTILINE), shown
        assert re.search(fill(site, version, case.err), done.stderr, re.MULTILINE), shown
        assert not case.absent or not re.search(case.absent, done.stdout, re.MULTILINE), shown
        for command, wanted in case.then:
            until(partial(shows, site, version, command, wanted))

    def test_a_terminal_is_a_terminal(self, site: Fleet, version: str) -> None:
        said = at_a_terminal(site, version, "exec -it waits -- sh", "tty; stty size; echo $((20+3))\n", "23")
        assert re.search(r"^/dev/(pts/\d+|tty|console)\r?$", said, re.MULTILINE), said
        assert "40 101" in said

        assert "43" in at_a_terminal(site, version, "attach -it shell", "echo $((40+3))\n", "43", detach=True)

    def test_what_stays_open_follows(self, site: Fleet, version: str) -> None:
        kubectl = site.kubectl(version)
        for words in ("logs -f talks --tail=1", "attach talks"):
            out = site.folder / "followed"
            process = kubectl.start(words, out)
            try:
                until(lambda: len(re.findall(r"^line \d+$", out.read_text(), re.MULTILINE)) >= 4)  # noqa: B023
            finally:
                process.kill()
                process.wait()
            seen = [int(n) for n in re.findall(r"^line (\d+)$", out.read_text(), re.MULTILINE)]
            assert seen == list(range(seen[0], seen[0] + len(seen)))

    def test_attach_passes_standard_input_on(self, site: Fleet) -> None:
        kubectl = site.kubectl("1.33")
        process = subprocess.Popen(
            kubectl.argv("attach -i echoes"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kubectl.environment(None),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"said once\n")
        process.stdin.flush()
        line = process.stdout.readline()
        process.kill()
        process.communicate()

        assert line == b"said once\n"
        until(lambda: "said once" in site.say("logs echoes"))

    def test_port_forward_leads_into_the_pod(self, site: Fleet, version: str) -> None:
        out = site.folder / "forwarded"
        process = site.kubectl(version).start("port-forward pod/serves :8080", out)
        try:
            until(lambda: re.search(r"127\.0\.0\.1:(\d+) -> 8080", out.read_text()))
            port = int(re.findall(r"127\.0\.0\.1:(\d+) -> 8080", out.read_text())[0])
            until(lambda: ask(port) == b"served\n")
        finally:
            process.kill()
            process.wait()

    def test_no_command_restarted_a_container(self, site: Fleet) -> None:
        counts = {
            each["metadata"]["name"]: [s["restartCount"] for s in each["status"]["containerStatuses"]]
            for each in site.get("pods")["items"]
        }
        assert {name: sum(restarts) for name, restarts in counts.items() if sum(restarts)} == {"again": 1}
        assert {file.read_bytes() for file in site.folder.glob("back-*")} == {BLOB}


class TestWithContainerd(PodCommands):
    runtime = "cri"
    versions = tuple(VERSIONS)
    says = "containerd://"


class TestAsPlainProcesses(PodCommands):
    runtime = "process"
    versions = (VERSIONS[0], VERSIONS[-1])
    says = "bubblewrap://"
