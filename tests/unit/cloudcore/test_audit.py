"""The embedded API notes who did what, unless somebody has switched that off."""

from pathlib import Path

from cloudcore.embedded_api import audit_of
from cloudcore.kube.resources import CONFIG_MAP
from cloudcore.settings import Api, load
from tests.kit.cloud import Cloud, running
from tests.kit.wait import eventually


async def make(cloud: Cloud) -> None:
    await cloud.client.create(CONFIG_MAP, "default", {"metadata": {"name": "noted"}})


async def test_what_people_do_is_noted_in_the_data_directory_without_asking_for_it(tmp_path: Path) -> None:  # HTTP-13
    async with running(tmp_path) as cloud:
        await make(cloud)
        log = tmp_path / "audit.log"
        await eventually(lambda: log.exists() and '"configmaps"' in log.read_text())
        assert log.stat().st_mode & 0o077 == 0


def test_the_audit_log_is_switched_off_moved_and_bounded_by_settings(tmp_path: Path) -> None:
    assert audit_of(tmp_path, Api(audit=False)) is None
    sets = ["api.audit_path=/logs/who.log", "api.audit_bytes=70000", "api.audit_files=2", "api.audit_reads=true"]

    found = audit_of(tmp_path, load(tmp_path, sets=sets).api)

    assert found is not None
    assert (found.path, found.max_bytes, found.files, found.reads) == (Path("/logs/who.log"), 70_000, 2, True)
