"""Where the API server is and who we are there: a kubeconfig, or a pod's service account.

Plain kubeconfigs (certificates, tokens, files) are read here. Exec plugins and cloud logins are left to the
``kubernetes`` package, imported only then.
"""

import base64
import binascii
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from proto.kit import tls
from proto.kit.errors import UsageError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_KUBECONFIG_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """How to reach one API server. ``token`` is asked for at each request: service account tokens are renewed.

    ``token_blocks``: asking may start a program, so it is done in a thread.
    """

    server: str
    context: Callable[[], ssl.SSLContext] | None
    server_hostname: str | None = None
    token: Callable[[], str] | None = None
    token_blocks: bool = False


def load(path: Path | None) -> KubeAccess:
    """Return the access that ``path`` (None: the pod's service account) describes. Raises UsageError."""
    if path is None:
        return _in_cluster()
    config = _read(path)
    try:
        context = _named(config, "contexts", config.get("current-context"))["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"] or {}
        server = str(cluster["server"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"kubeconfig {path}: no complete current-context (missing {error})") from error
    if "exec" in user or "auth-provider" in user:
        return _by_package(path)
    return _plain(path, server, cluster, user)


def _plain(path: Path, server: str, cluster: dict[str, Any], user: dict[str, Any]) -> KubeAccess:
    ca = _pem(path, cluster, "certificate-authority")
    cert, key = _pem(path, user, "client-certificate"), _pem(path, user, "client-key")
    hostname = cluster.get("tls-server-name")
    return KubeAccess(
        server=server,
        context=_contexts(cert, key, ca, insecure=bool(cluster.get("insecure-skip-tls-verify"))),
        server_hostname=str(hostname) if hostname else None,
        token=_token(path, user),
    )


def _contexts(
    cert: tls.Pem | None, key: tls.Pem | None, ca: tls.Pem | None, *, insecure: bool
) -> Callable[[], ssl.SSLContext]:
    """Return a factory that builds the context anew when one of the files changed."""
    files = [pem for pem in (cert, key, ca) if isinstance(pem, Path)]
    made: list[tuple[object, ssl.SSLContext]] = []

    def current() -> ssl.SSLContext:
        stamp = [(f.stat().st_mtime_ns, f.stat().st_size) if f.exists() else None for f in files]
        if not made or made[0][0] != stamp:
            context = tls.client_context(cert, key, ca, server_hostname=None)
            if insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            made[:] = [(stamp, context)]
        return made[0][1]

    return current


def _token(path: Path, user: dict[str, Any]) -> Callable[[], str] | None:
    file = user.get("tokenFile")
    if file:
        return lambda: _relative(path, str(file)).read_text().strip()
    token = user.get("token")
    return (lambda: str(token)) if token else None


def _pem(path: Path, section: dict[str, Any], field: str) -> tls.Pem | None:
    inline = section.get(f"{field}-data")
    if inline:
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise UsageError(f"kubeconfig {path}: {field}-data is not base64") from error
    file = section.get(field)
    return _relative(path, str(file)) if file else None


def _relative(path: Path, file: str) -> Path:
    return path.parent / file


def _named(config: dict[str, Any], section: str, name: Any) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    raise KeyError(f"{section}[{name}]")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as handle:
            text = handle.read(MAX_KUBECONFIG_BYTES + 1)
        if len(text) > MAX_KUBECONFIG_BYTES:
            raise UsageError(f"kubeconfig {path} is larger than {MAX_KUBECONFIG_BYTES} bytes")
        loaded = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"kubeconfig {path}: {error.strerror}") from error
    except RecursionError as error:
        raise UsageError(f"kubeconfig {path} is not YAML: it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise UsageError(f"kubeconfig {path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"kubeconfig {path}: the top level must be a mapping")
    return loaded


def _in_cluster() -> KubeAccess:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (SERVICE_ACCOUNT / "token").exists():
        raise UsageError("no kubeconfig was given and this is no pod: pass --kubeconfig FILE")
    where = f"[{host}]" if ":" in host else host
    return KubeAccess(
        server=f"https://{where}:{port}",
        context=_contexts(None, None, SERVICE_ACCOUNT / "ca.crt", insecure=False),
        token=lambda: (SERVICE_ACCOUNT / "token").read_text().strip(),
    )


def _by_package(path: Path) -> KubeAccess:
    from kubernetes import client, config  # noqa: PLC0415  heavy: only for exec plugins and cloud logins

    settings = client.Configuration()
    try:
        config.load_kube_config(str(path), client_configuration=settings)
    except Exception as error:
        raise UsageError(f"kubeconfig {path}: {error}") from error

    one_at_a_time = threading.Lock()

    def token() -> str:
        if settings.refresh_api_key_hook is not None:
            with one_at_a_time:
                settings.refresh_api_key_hook(settings)
        # Version 37 renamed the entry.
        found = settings.api_key.get("BearerToken") or settings.api_key.get("authorization") or ""
        return str(found).removeprefix("Bearer ")

    def file(name: str | None) -> Path | None:
        return Path(name) if name else None

    return KubeAccess(
        server=settings.host,
        context=_contexts(
            file(settings.cert_file),
            file(settings.key_file),
            file(settings.ssl_ca_cert),
            insecure=not settings.verify_ssl,
        ),
        token=token if settings.api_key else None,
        token_blocks=True,
    )
