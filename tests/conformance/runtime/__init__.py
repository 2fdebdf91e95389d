"""One suite for every container runtime."""

import pytest

for _promises in ("world", "lives", "calls", "settings", "stored", "daemon"):
    pytest.register_assert_rewrite(f"{__name__}.{_promises}")
