"""The CustomResourceDefinitions of devices.kubeedge.io, as package files; ``deploy/crds/`` holds copies for people."""

from importlib.resources import files
from typing import Any

import yaml

NAMES = ("devicemodels", "devices", "devicestatuses")


def load_crds() -> list[dict[str, Any]]:
    """Return the three CRD objects, models first."""
    folder = files(__name__)
    return [yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in NAMES]
