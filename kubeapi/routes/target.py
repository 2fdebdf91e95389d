"""What a path means: which resource, which object, which verb (Kubernetes' RequestInfo)."""

from dataclasses import dataclass, field

from kubeapi.access import Attributes, User
from kubeapi.errors import ApiError, bad_request, unknown_resource
from kubeapi.http import Request
from kubeapi.resources import Registry, Resource
from kubeapi.selectors import field_terms
from kubeapi.virtual_kinds import VIRTUAL_BY_PATH

METHODS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
TRUE = ("1", "true", "True", "TRUE", "t", "T")
FALSE = ("", "0", "false", "False", "FALSE", "f", "F")


class Query:
    """The decoded query with typed reads. Raises 400 naming the parameter."""

    def __init__(self, request: Request) -> None:
        try:
            self._fields = request.query() if request.query_string else {}
        except ValueError as error:
            raise bad_request(f"the query has too many parameters: {error}") from error

    def text(self, name: str, default: str = "") -> str:
        found = self._fields.get(name)
        return found[0] if found else default

    def all(self, name: str) -> list[str]:
        return self._fields.get(name, [])

    def flag(self, name: str) -> bool:
        value = self.text(name)
        if value in TRUE:
            return True
        if value in FALSE:
            return name in self._fields and value == "" and name == "watch"
        raise bad_request(f'invalid value "{value[:40]}" for parameter {name}: must be true or false')

    def number(self, name: str) -> int | None:
        value = self.text(name)
        if not value:
            return None
        if not (value.isascii() and value.isdecimal()) or len(value) > 12:
            raise bad_request(f'invalid value "{value[:40]}" for parameter {name}: must be a whole number')
        return int(value)


@dataclass(slots=True)
class Target:
    """One request about a resource. ``namespace`` None is every namespace (or a kind without them)."""

    res: Resource
    verb: str
    namespace: str | None
    name: str
    subresource: str
    query: Query
    user: User
    rest: list[str] = field(default_factory=list)  # path below the subresource

    @property
    def space(self) -> str:
        return self.namespace or ""

    def attributes(self, verb: str = "") -> Attributes:
        """Return what authorizers are asked."""
        verb = verb or self.verb
        fields: dict[str, str] = {}
        selector = self.query.text("fieldSelector")
        if selector and verb in ("list", "watch", "deletecollection"):
            fields = {path: value for path, equal, value in field_terms(self.res, selector) if equal}
        space = self.name if self.res.plural == "namespaces" and not self.res.group else self.space
        return Attributes(
            self.user, verb, self.res.group, self.res.plural, self.subresource, space, self.name, "", fields
        )


def resolve(registry: Registry, request: Request, segments: list[str], user: User) -> Target:
    """Return what ``segments`` (``api``, ``v1``, … or ``apis``, group, version, …) mean. Raises 404, 405."""
    core = segments[0] == "api"
    group, version, rest = ("", segments[1], segments[2:]) if core else (segments[1], segments[2], segments[3:])
    watching = rest[:1] == ["watch"]  # the old spelling of ?watch=true
    if watching:
        rest = rest[1:]
    namespace: str | None = None
    if rest[:1] == ["namespaces"] and len(rest) > 2 and (group or rest[2] not in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    if not rest:
        raise unknown_resource()
    plural, name, subresource = [*rest[:3], "", ""][:3]
    res = registry.find(group, version, plural) or VIRTUAL_BY_PATH.get((group, version, plural))
    if res is None or (namespace is not None and not res.namespaced):
        raise unknown_resource()
    query = Query(request)
    verb = METHODS.get(request.method)
    if verb is None:
        raise ApiError(405, "MethodNotAllowed", f"the method {request.method} is not served")
    if subresource == "proxy":
        pass  # the query is for who is behind it
    elif verb == "get" and (watching or query.flag("watch")):
        verb = "watch"
    elif not name and verb in ("get", "delete"):
        verb = {"get": "list", "delete": "deletecollection"}[verb]
    if res.namespaced and namespace is None and (name or verb == "create"):
        raise unknown_resource()
    return Target(res, verb, namespace, name, subresource, query, user, rest[3:])
