"""A registry to pull from: images made in the test, some behind a password. Plain HTTP, as runtimes speak to localhost."""

import base64
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.kit import images

PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<what>[^/?]+)")


class Registry:
    """Serves on a listening ``sock``; runtimes call it ``localhost:PORT``. ``requests`` are those that came, in order."""

    def __init__(self, sock: socket.socket) -> None:
        self.port: int = sock.getsockname()[1]
        self.requests: list[str] = []
        self._blobs: dict[str, bytes] = {}
        self._kinds: dict[str, str] = {}
        self._tags: dict[tuple[str, str], str] = {}
        self._logins: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("", 0), self._handler(), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def reference(self, name: str, tag: str) -> str:
        return f"localhost:{self.port}/{name}:{tag}"

    def digest(self, name: str, tag: str) -> str:
        return self._tags[name, tag]

    def add(self, name: str, tag: str, *, login: tuple[str, str] | None = None, **settings: Any) -> str:
        """Offer a busybox image with ``settings`` in its configuration; return its reference."""
        made = images.busybox_image(self.reference(name, tag), **settings)
        self._blobs |= made.blobs
        self._kinds[made.manifest["digest"]] = made.manifest["mediaType"]
        self._tags[name, tag] = made.manifest["digest"]
        if login is not None:
            self._logins[name] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        return made.reference

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, authorization: str) -> tuple[HTTPStatus, dict[str, str], bytes]:
        """What a GET of ``path`` brings."""
        self.requests.append(path)
        if path.rstrip("/") == "/v2":
            return HTTPStatus.OK, {"Content-Type": "application/json"}, b"{}"
        found = PATH.match(path)
        if found is None:
            return HTTPStatus.NOT_FOUND, {}, b""
        name, what = found["name"], found["what"]
        if self._logins.get(name, authorization) != authorization:
            return HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="tests"'}, b""
        digest = what if what.startswith("sha256:") else self._tags.get((name, what), "")
        blob = self._blobs.get(digest)
        if blob is None:
            return HTTPStatus.NOT_FOUND, {}, b""
        kind = self._kinds.get(digest, "application/octet-stream")
        return HTTPStatus.OK, {"Content-Type": kind, "Docker-Content-Digest": digest}, blob

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(body=True)

            def do_HEAD(self) -> None:
                self.reply(body=False)

            def reply(self, *, body: bool) -> None:
                status, headers, content = registry.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                """Say nothing: what came is in ``requests``."""

        return Handler
