"""From a whole pod to what the runtime takes, on a real directory (VOL-1, VOL-9)."""

import base64
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import mounts
from edgecore.pods.build import Builder
from edgecore.pods.runtime import Image, PortMapping
from edgecore.pods.unready import Unready
from tests.kit.clock import ManualClock
from tests.kit.pod_objects import UID, HeldObjects, Said, builder, container, pod

IMAGE = Image("sha256:1", ("docker.io/edge/app:1",), uid=1000)


class Room:
    """A builder with its objects; everything it made is gone at the end."""

    def __init__(self, path: Path, *, mounting: bool) -> None:
        self.path, self.objects, self.clock, self.said = path, HeldObjects(), ManualClock(), Said()
        self.mounting = mounting
        self.builder = self.again()

    def again(self) -> Builder:
        """As after a restart of the daemon."""
        self.builder = builder(self.path, self.objects, self.clock, say=self.said, mounting=self.mounting)
        return self.builder

    def config(self, spec: dict[str, Any], *, ips: tuple[str, ...] = ("10.88.0.5",), attempt: int = 0) -> Any:
        built = self.builder
        sandbox = built.sandbox(spec, 0)
        first = spec["spec"]["containers"][0]
        return built.container(spec, first, attempt=attempt, image=IMAGE, ips=ips, sandbox=sandbox)

    async def close(self) -> None:
        for uid in self.builder.orphans():
            await self.builder.forget(uid)
        memory = self.builder.dirs.memory
        if memory is not None and memory.exists():
            memory.rmdir()


@pytest.fixture(params=["folders", "mounts"])
async def room(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Both ways in which volumes are made: with mounts of our own, and without any."""
    made = Room(tmp_path / "edge", mounting=request.param == "mounts")
    yield made
    await made.close()
    assert mounts.below(tmp_path) == []


def host_path(config: Any, inside: str) -> Path:
    return Path(next(m.host_path for m in config.mounts if m.container_path == inside))


def volumes(**sources: Any) -> dict[str, Any]:
    """Volumes by name, and one container that mounts each at /NAME."""
    mounted = [{"name": name, "mountPath": f"/{name}"} for name in sources]
    return pod(container(volumeMounts=mounted), volumes=[{"name": n, **s} for n, s in sources.items()])


async def test_a_plain_pod_has_hosts_and_a_termination_log(room: Room) -> None:
    spec = pod(container(command=["/bin/app", "$(HOSTNAME)"], ports=[{"containerPort": 80, "hostPort": 8080}]))

    await room.builder.prepare(spec)
    config = room.config(spec, attempt=3)

    assert [m.container_path for m in config.mounts] == ["/etc/hosts", "/dev/termination-log"]
    assert "10.88.0.5\tweb\n" in host_path(config, "/etc/hosts").read_text()
    assert host_path(config, "/dev/termination-log").stat().st_mode & 0o777 == 0o666
    assert (config.log_path, config.image) == ("app/3.log", "sha256:1")
    assert room.builder.sandbox(spec, 0).ports == (PortMapping(80, 8080),)
    assert ("KUBERNETES_SERVICE_HOST", "169.254.20.1") in config.env
    assert config.command == ("/bin/app", "$(HOSTNAME)")


async def test_config_maps_and_secrets_are_files_that_change_at_once(room: Room) -> None:
    room.objects.put("configmaps", "cfg", data={"a.conf": "one"})
    room.objects.put("secrets", "key", data={"pin": base64.b64encode(b"1234").decode()})
    spec = volumes(cfg={"configMap": {"name": "cfg"}}, key={"secret": {"secretName": "key", "defaultMode": 0o400}})

    await room.builder.prepare(spec)
    config = room.config(spec)
    cfg, key = host_path(config, "/cfg"), host_path(config, "/key")
    assert (cfg / "a.conf").read_text() == "one"
    assert ((key / "pin").read_text(), (key / "pin").stat().st_mode & 0o777) == ("1234", 0o400)
    covering = mounts.covering(key)
    assert covering is not None
    assert covering.kind == "tmpfs"

    room.objects.put("configmaps", "cfg", data={"b.conf": "two"})
    await room.builder.refresh(spec)
    assert [p.name for p in cfg.iterdir() if not p.name.startswith("..")] == ["b.conf"]
    assert (cfg / "b.conf").read_text() == "two"


async def test_an_empty_dir_in_memory_is_a_tmpfs_of_its_size(room: Room) -> None:
    spec = volumes(fast={"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, slow={"emptyDir": {}})

    await room.builder.prepare(spec)
    config = room.config(spec)
    fast = host_path(config, "/fast")
    (fast / "kept").write_text("still here")
    await room.again().prepare(spec)

    covering = mounts.covering(fast)
    assert covering is not None
    assert covering.kind == "tmpfs"
    assert (fast / "kept").read_text() == "still here"
    assert host_path(config, "/slow").stat().st_mode & 0o777 == 0o777


async def test_an_empty_dir_over_its_limit_is_said_in_a_sentence(room: Room) -> None:
    spec = volumes(data={"emptyDir": {"sizeLimit": "64Ki"}})
    await room.builder.prepare(spec)
    assert await room.builder.over_limit(spec) == ""

    (host_path(room.config(spec), "/data") / "large").write_bytes(b"x" * 100_000)

    assert await room.builder.over_limit(spec) == 'Usage of EmptyDir volume "data" exceeds the limit "64Ki". '


async def test_forget_takes_everything_and_nothing_that_is_not_the_pod_s(room: Room, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    spec = volumes(host={"hostPath": {"path": str(outside)}}, data={"emptyDir": {"medium": "Memory"}})
    mounted = spec["spec"]["containers"][0]["volumeMounts"]
    mounted.append({"name": "host", "mountPath": "/sub", "subPath": "file"})
    await room.builder.prepare(spec)
    assert host_path(room.config(spec), "/sub").read_text() == "mine"
    assert room.builder.orphans() == {UID}

    await room.again().forget(UID)
    await room.builder.forget(UID)

    assert room.builder.orphans() == set()
    assert (outside / "file").read_text() == "mine"


async def test_a_missing_object_is_named(room: Room) -> None:
    spec = volumes(cfg={"configMap": {"name": "cfg"}})

    with pytest.raises(Unready) as caught:
        await room.builder.prepare(spec)

    assert (caught.value.reason, caught.value.volumes) == ("FailedMount", True)
    assert str(caught.value) == 'MountVolume.SetUp failed for volume "cfg" : configmap "cfg" not found'
