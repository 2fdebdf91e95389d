"""Requests of the commands to the node-local API, as the technician: one at a time, bounded, blocking."""

import asyncio
import http.client
import ssl
from typing import Any

import msgspec

from edgecore import enrol
from edgecore.data_dir import LOCAL_CA, DataDir
from edgecore.settings import Settings
from proto.kit import canonical, tls
from proto.kit.errors import SkerryError
from proto.names import ObjectKey

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 8 << 20
MERGE_PATCH, JSON = "application/merge-patch+json", "application/json"

Json = dict[str, Any]


class Refused(SkerryError):
    """The node-local API said no; ``status`` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Technician:
    """A new credential, made for this command alone."""

    def __init__(self, directory: DataDir, settings: Settings, port: int) -> None:
        printed = asyncio.run(enrol.run_keys("admin", str(directory.pki), settings.node, "1"))
        pair = msgspec.json.decode(printed, type=dict[str, str])
        self._context = tls.client_context(
            pair["certificate"].encode(), pair["key"].encode(), directory.pki / LOCAL_CA, server_hostname=None
        )
        self._host, self._port = settings.local_api.host, port

    def call(self, method: str, path: str, body: Json | None = None, content_type: str = JSON) -> Json:
        """Return the answer's object. Raises Refused, SkerryError."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._context)
        try:
            sent = None if body is None else canonical.encode(body)
            connection.request(method, path, sent, {"content-type": content_type, "accept": JSON})
            answer = connection.getresponse()
            found = canonical.decode(answer.read(MAX_ANSWER_BYTES))
        except (OSError, ssl.SSLError, http.client.HTTPException, *canonical.UNREADABLE) as error:
            where = f"{self._host}:{self._port}"
            raise SkerryError(
                f"the node-local API at {where} does not answer ({error}); is edgecore running?"
            ) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, str(found.get("message") or answer.reason))
        return dict(found)


def path_of(api_version: str, key: ObjectKey, *, named: bool = True, subresource: str = "") -> str:
    """Return the URL path of an object, or of the collection that it is in."""
    group, _, version = api_version.rpartition("/")
    parts = ["/apis", group, version] if group else ["/api", version]
    parts += ["namespaces", key.namespace, key.plural] if key.namespace else [key.plural]
    return "/".join([*parts, *([key.name] if named else []), *([subresource] if subresource else [])])
