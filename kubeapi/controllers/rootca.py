"""Every namespace has the certificate authority of the API, as ConfigMap ``kube-root-ca.crt``: pods mount it with their tokens."""

from typing import Any

from kubeapi.controllers import parts
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import CONFIG_MAP, NAMESPACE
from kubeapi.objects import Objects, WriteOptions
from kubeapi.pod_admission import ROOT_CA
from kubeapi.stored import Event

Json = dict[str, Any]
MANAGER = "root-ca-publisher"


class RootCa:
    """Keeps the ConfigMap as it should be; does nothing without a certificate."""

    def __init__(self, objects: Objects, certificate: bytes) -> None:
        self._objects, self._store = objects, objects.store
        self._data = {"ca.crt": certificate.decode()}
        self.worker: Worker[str] = Worker("root-ca", self._make_right, objects.clock)

    def start(self) -> None:
        if not self._data["ca.crt"]:
            return
        for item in self._store.items(NAMESPACE, None):
            self.worker.add(item.name)
        self._store.listen(NAMESPACE, lambda event: self.worker.add(event.stored.name))
        self._store.listen(CONFIG_MAP, self._changed)

    def _changed(self, event: Event) -> None:
        if event.stored.name == ROOT_CA:
            self.worker.add(event.stored.namespace)

    async def _make_right(self, namespace: str) -> None:
        space = self._store.get(NAMESPACE, "", namespace)
        if space is None or parts.is_deleting(space):
            return
        held = self._store.get(CONFIG_MAP, namespace, ROOT_CA)
        if held is not None:
            await parts.change(self._objects, CONFIG_MAP, held, lambda found: {**found, "data": self._data})
            return
        body = {"metadata": {"name": ROOT_CA}, "data": self._data}
        try:
            await self._objects.create(CONFIG_MAP, namespace, body, WriteOptions(field_manager=MANAGER))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
