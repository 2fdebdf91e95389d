from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.kubeapi.api import Api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = await Api.open(tmp_path)
    yield api
    await api.close()
