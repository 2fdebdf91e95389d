from pathlib import Path

import pytest

from kubeapi.backup import RESTORE_GAP, backup, check, restore
from kubeapi.errors import ApiError
from proto.kit.database import DatabaseDamaged
from proto.kit.errors import UsageError
from tests.unit.kubeapi.api import CM, Api, config_map


async def test_a_restored_store_has_the_old_objects_and_new_revisions(tmp_path: Path) -> None:  # API-18
    api = await Api.open(tmp_path)
    await api.create(CM, config_map("kept"))
    facts = await backup(api.db, tmp_path / "b")
    await api.create(CM, config_map("lost"))
    seen = api.store.revision
    await api.close()

    restored = restore(tmp_path / "b", tmp_path / "kube.db")
    api = await Api.open(tmp_path)

    assert restored.objects == facts.objects == 2
    assert api.names(CM) == ["kept"]
    assert api.store.revision >= seen + RESTORE_GAP // 2
    with pytest.raises(ApiError) as refused:
        api.store.watch(CM, None, seen)
    assert refused.value.status == 410
    made = await api.create(CM, config_map("more"))
    assert int(made["metadata"]["resourceVersion"]) > seen
    assert (tmp_path / "kube.db.replaced").exists()
    await api.close()


async def test_a_backup_never_overwrites(api: Api, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        await backup(api.db, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "mine"


def test_what_is_no_backup_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        check(tmp_path / "none")
    (tmp_path / "text").write_text("this is not a database at all, but it is long enough to be looked at" * 20)
    with pytest.raises(DatabaseDamaged):
        check(tmp_path / "text")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UsageError, match="is not a backup"):
        check(tmp_path / "empty")
