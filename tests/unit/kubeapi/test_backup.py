from pathlib import Path

import pytest

from kubeapi.backup import RESTORE_GAP, skip_revisions
from kubeapi.errors import ApiError
from proto.kit.database import DatabaseDamaged
from tests.unit.kubeapi.api import CM, Api, config_map


async def test_a_restored_store_has_the_old_objects_and_new_revisions(tmp_path: Path) -> None:  # API-2 API-18
    api = await Api.open(tmp_path)
    await api.create(CM, config_map("kept"))
    await api.db.backup(tmp_path / "copy")
    await api.create(CM, config_map("lost"))
    seen = api.store.revision
    await api.close()

    skip_revisions(tmp_path / "copy")
    (tmp_path / "restored").mkdir()
    (tmp_path / "copy").rename(tmp_path / "restored" / "kube.db")
    api = await Api.open(tmp_path / "restored")

    assert api.names(CM) == ["kept"]
    assert api.store.revision >= seen + RESTORE_GAP // 2
    with pytest.raises(ApiError) as refused:
        api.store.watch(CM, None, seen)
    assert refused.value.status == 410
    made = await api.create(CM, config_map("more"))
    assert int(made["metadata"]["resourceVersion"]) > seen
    await api.close()


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database at all, but it is long enough to be looked at" * 20)
    with pytest.raises(DatabaseDamaged, match="use another backup"):
        skip_revisions(tmp_path / "text")
