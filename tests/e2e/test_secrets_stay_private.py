"""What is secret is on no other user's screen: files are their owner's alone, and no log, status or metric repeats one."""

import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from edgecore import kinds
from tests.kit.devices import MODEL, oven, report
from tests.kit.platform import Platform, command
from tests.kit.wait import eventually

NOT_SECRET = {".crt"}  # certificates are shown to anybody who connects
WORDS = "correct-horse-battery-staple"


def open_to_others(directory: Path) -> Iterator[str]:
    """Name what others than the owner could read, write or enter."""
    for path in (directory, *directory.rglob("*")):
        mode = path.lstat().st_mode & 0o777
        allowed = 0o700 if path.is_dir() else 0o644 if path.suffix in NOT_SECRET else 0o600
        if mode & ~allowed:
            yield f"{path.relative_to(directory.parent)} {mode:o}"


def key_material(directory: Path) -> set[str]:
    """The lines of every private key below ``directory``."""
    keys = [path for path in directory.rglob("*") if path.is_file() and path.suffix in {".key", ".kubeconfig"}]
    text = "\n".join(path.read_text(errors="replace") for path in keys)
    blocks = re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", text, re.DOTALL)
    return {line for block in blocks for line in block.split()} | set(re.findall(r"client-key-data: (\S+)", text))


def logs_in(directory: Path) -> str:
    return "".join(log.read_text() for log in directory.glob("*.log"))


async def test_files_are_private_and_no_secret_is_repeated(tmp_path: Path) -> None:
    async with Platform(tmp_path, cloud_sets=("log_level=debug",)) as platform:
        await platform.start_cloud()
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "words", "namespace": "default"}}
        await platform.kube.apply({**secret, "stringData": {"words": WORDS}}, MODEL, oven())
        token = await platform.token()
        edge = await platform.add_edge("gw-1", "log_level=debug")
        await eventually(lambda: bool(edge.objects(kinds.DEVICE)))
        await report(edge.mqtt_port, temperature="1")
        await edge.drained()
        where = ("--data-dir", str(platform.cloud_dir))
        said = await command("cloudcore", "status", "-o", "json", *where)
        said += await command("cloudcore", "token", "list", "-o", "json", *where)
        said += await command("edgecore", "status", "-o", "json", "--data-dir", str(edge.data_dir))
        said += await platform.metrics() + await edge.metrics()
        running = [*open_to_others(platform.cloud_dir), *open_to_others(edge.data_dir)]
        await edge.stop()
        await platform.stop_cloud()

        assert not running
        assert not [*open_to_others(platform.cloud_dir), *open_to_others(edge.data_dir)]
        keys = key_material(platform.cloud_dir) | key_material(edge.data_dir)
        assert len(keys) > 10
        said += logs_in(tmp_path)
        hidden = {WORDS, b64encode(WORDS.encode()).decode(), token.split(".")[1], *keys}
        assert not [word for word in hidden if word in said]
