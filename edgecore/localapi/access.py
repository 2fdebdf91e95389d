"""Who may do what at the node-local API: RBAC as the cloud has it, and the technician's rights on this node's own store."""

from kubeapi.access import AUTHENTICATED, Attributes
from proto.writes import ADMIN_GROUP, CLOUD_ONLY, admin_of

READ = frozenset({"get", "list", "watch"})
REVIEWS = frozenset({"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"})
PUBLIC = ("/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz")
NEVER_VERBS = frozenset({"impersonate", "escalate", "bind", "approve", "sign"})
TOKENS = "token"  # of a service account: only its pods get one


class NodeRights:
    """Authorizer: everybody whom we know may discover; the technician reads this store and writes what the cloud may take."""

    def __init__(self, node: str) -> None:
        self._admin = admin_of(node)

    def allows(self, wanted: Attributes) -> str:
        """Return why, "" for no opinion."""
        if AUTHENTICATED not in wanted.user.groups:
            return ""
        if wanted.path:
            public = any(wanted.path == path or wanted.path.startswith(f"{path}/") for path in PUBLIC)
            return "discovery" if wanted.verb == "get" and (public or self._is_admin(wanted)) else ""
        if wanted.resource in REVIEWS and wanted.verb == "create":
            return "about oneself"
        return "technician of this node" if self._is_admin(wanted) and _may(wanted) else ""

    def _is_admin(self, wanted: Attributes) -> bool:
        return wanted.user.name == self._admin and ADMIN_GROUP in wanted.user.groups


def _may(wanted: Attributes) -> bool:
    if wanted.verb in READ:
        return True
    if wanted.verb in NEVER_VERBS or wanted.group in CLOUD_ONLY or wanted.subresource == TOKENS:
        return False
    return wanted.resource not in ("users", "groups", "nodes", "namespaces") or bool(wanted.group)
