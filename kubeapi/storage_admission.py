"""A claim that names no class gets the default one. A Hook."""

from typing import Any

from kubeapi.admission import Attempt
from kubeapi.kinds import PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS
from kubeapi.store import Store

Json = dict[str, Any]
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class StorageAdmission:
    """Completes new claims."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, attempt: Attempt) -> Json | None:
        if attempt.res != PERSISTENT_VOLUME_CLAIM or attempt.verb != "CREATE" or attempt.obj is None:
            return None
        spec = attempt.obj.get("spec") or {}
        if spec.get("storageClassName") is not None:  # "" asks for no class at all
            return None
        found = [
            item.object["metadata"]
            for item in self._store.peek_all(STORAGE_CLASS)
            if (item.object["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
        ]
        if not found:
            return None
        newest = max(found, key=lambda m: (m.get("creationTimestamp") or "", m["name"]))
        return {**attempt.obj, "spec": {**spec, "storageClassName": newest["name"]}}
