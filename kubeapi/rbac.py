"""RBAC: Roles and bindings of the store, compiled into grants per subject; compiled anew after any of them changed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubeapi.access import ACCOUNT_PREFIX, Attributes, Authorizer, User
from kubeapi.admission import Attempt
from kubeapi.errors import INVALID, Cause, forbidden, invalid
from kubeapi.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING
from kubeapi.resources import Resource
from kubeapi.store import Store

MAX_DECISIONS = 20_000  # remembered answers; forgotten together, because a change forgets them all anyway
KINDS = (ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING)


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule, ready to be asked."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def allows(self, wanted: Attributes) -> bool:
        if not _has(self.verbs, wanted.verb):
            return False
        if wanted.path:
            return any(_path_matches(path, wanted.path) for path in self.paths)
        return (
            _has(self.groups, wanted.group) and (not self.names or wanted.name in self.names) and self._covers(wanted)
        )

    def _covers(self, wanted: Attributes) -> bool:
        if not wanted.subresource:
            return _has(self.resources, wanted.resource)
        full = f"{wanted.resource}/{wanted.subresource}"
        return _has(self.resources, full) or f"*/{wanted.subresource}" in self.resources

    def body(self) -> dict[str, Any]:
        """Return the rule as ``auth can-i --list`` shows it."""
        if self.paths:
            return {"verbs": sorted(self.verbs), "nonResourceURLs": list(self.paths)}
        out = {"verbs": sorted(self.verbs), "apiGroups": sorted(self.groups), "resources": sorted(self.resources)}
        return {**out, "resourceNames": sorted(self.names)} if self.names else out


@dataclass(frozen=True, slots=True)
class Grant:
    """A rule that a subject has, in one namespace or ("") everywhere."""

    rule: Rule
    namespace: str
    reason: str


class Rbac:
    """Authorizer over the store's Roles and bindings."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes = 0
        self._compiled: tuple[int, dict[str, list[Grant]]] = (-1, {})  # as of which change
        self._decisions: dict[tuple[Any, ...], str] = {}
        for res in KINDS:
            store.listen(res, self._changed)

    def allows(self, wanted: Attributes) -> str:
        """Return the binding that allows ``wanted``, "" when none does."""
        user = wanted.user
        scope = (wanted.group, wanted.resource, wanted.subresource, wanted.namespace, wanted.name, wanted.path)
        key = (user.name, user.groups, wanted.verb, *scope)
        decisions = self._decisions
        known = decisions.get(key)
        if known is None:
            known = next((g.reason for g in self.grants(user, wanted.namespace) if g.rule.allows(wanted)), "")
            if len(decisions) >= MAX_DECISIONS:
                decisions.clear()
            decisions[key] = known
        return known

    def grants(self, user: User, namespace: str) -> Iterator[Grant]:
        """Yield what ``user`` has in ``namespace`` ("": cluster-wide grants alone)."""
        as_of, compiled = self._compiled
        if as_of != self._changes:
            compiled = self._compile()
        for subject in (f"User/{user.name}", *(f"Group/{group}" for group in user.groups)):
            for grant in compiled.get(subject, ()):
                if grant.namespace in ("", namespace):
                    yield grant

    def _changed(self, _: object) -> None:
        self._changes += 1
        self._decisions = {}  # another one: who still fills the old one in the writer thread fills what nobody reads

    def _compile(self) -> dict[str, list[Grant]]:
        as_of = self._changes  # escalation is checked in the writer thread: a change may become visible meanwhile
        roles = _cluster_roles(self._store.list(CLUSTER_ROLE, None))
        local = {
            (r["metadata"]["namespace"], r["metadata"]["name"]): read_rules(r.get("rules"))
            for r in self._store.list(ROLE, None)
        }
        out: dict[str, list[Grant]] = {}
        for binding in (*self._store.list(CLUSTER_ROLE_BINDING, None), *self._store.list(ROLE_BINDING, None)):
            namespace, name = binding["metadata"].get("namespace", ""), binding["metadata"]["name"]
            ref = binding.get("roleRef") or {}
            found = (
                local.get((namespace, ref.get("name", "")))
                if ref.get("kind") == "Role"
                else roles.get(ref.get("name", ""))
            )
            reason = f'{binding["kind"]} "{name}" of {ref.get("kind")} "{ref.get("name")}"'
            for subject in binding.get("subjects") or ():
                grants = out.setdefault(_subject(subject, namespace), [])
                grants += [Grant(rule, namespace, reason) for rule in found or ()]
        self._compiled = (as_of, out)
        return out


def read_rules(rules: Any) -> list[Rule]:
    """Return the ``rules`` of a role."""
    return [
        Rule(
            frozenset(r.get("verbs") or ()),
            frozenset(r.get("apiGroups") or ()),
            frozenset(r.get("resources") or ()),
            frozenset(r.get("resourceNames") or ()),
            tuple(r.get("nonResourceURLs") or ()),
        )
        for r in rules or ()
    ]


class RbacAdmission:
    """Nobody grants what they do not have: a Hook on every write of a role or a binding."""

    def __init__(self, store: Store, authorizers: Iterable[Authorizer]) -> None:
        self._store = store
        self._authorizers = tuple(authorizers)

    def __call__(self, attempt: Attempt) -> None:
        """Return when the user may write the role or binding. Raises 403 naming a right that is missing."""
        user, obj = attempt.user, attempt.obj
        if attempt.res.group != ROLE.group or obj is None or not isinstance(user, User):
            return
        if attempt.old is not None and all(
            attempt.old.get(part) == obj.get(part) for part in ("rules", "roleRef", "subjects")
        ):
            return
        if attempt.res.plural in (ROLE.plural, CLUSTER_ROLE.plural):
            if not self._may(self._wanted(attempt, "escalate", attempt.res, attempt.name)):
                self._covers(attempt, read_rules(obj.get("rules")))
            return
        if attempt.old is not None and attempt.old.get("roleRef") != obj.get("roleRef"):
            cause = Cause(INVALID, "roleRef", f"Invalid value: {obj.get('roleRef')}: cannot change roleRef")
            raise invalid(attempt.res, attempt.name, [cause])
        self._bind(attempt, obj.get("roleRef") or {})

    def _bind(self, attempt: Attempt, ref: Mapping[str, Any]) -> None:
        kind = ROLE if ref.get("kind") == "Role" else CLUSTER_ROLE
        role = str(ref.get("name", ""))
        if self._may(self._wanted(attempt, "bind", kind, role)):
            return
        found = self._store.peek(kind, attempt.namespace, role)
        if found is None:
            why = f'{kind.kind} "{role}" does not exist: only who may bind every role may bind one that does not exist yet'
            raise forbidden(attempt.res, attempt.name, why)
        if kind is ROLE:
            self._covers(attempt, read_rules(found.object.get("rules")))
        else:
            roles = _cluster_roles([item.object for item in self._store.peek_all(CLUSTER_ROLE)])
            self._covers(attempt, roles.get(role, []))

    def _covers(self, attempt: Attempt, rules: list[Rule]) -> None:
        for rule in rules:
            for wanted in _each_right(rule, attempt.user, attempt.namespace):
                if not self._may(wanted):
                    why = f"a user cannot grant what they do not have: {wanted.sentence()}"
                    raise forbidden(attempt.res, attempt.name, why)

    def _wanted(self, attempt: Attempt, verb: str, kind: Resource, name: str) -> Attributes:
        return Attributes(attempt.user, verb, kind.group, kind.plural, "", attempt.namespace, name)

    def _may(self, wanted: Attributes) -> bool:
        return any(a.allows(wanted) for a in self._authorizers)


def _each_right(rule: Rule, user: User, namespace: str) -> Iterator[Attributes]:
    for verb in sorted(rule.verbs):
        for path in rule.paths:
            yield Attributes(user, verb, path=path)
        for group in sorted(rule.groups):
            for resource in sorted(rule.resources):
                plural, _, sub = resource.partition("/")
                for name in sorted(rule.names) or [""]:
                    yield Attributes(user, verb, group, plural, sub, namespace, name)


def _cluster_roles(stored: list[dict[str, Any]]) -> dict[str, list[Rule]]:
    """Return the rules of each ClusterRole; an aggregated one also has those of every role that it selects."""
    own = {r["metadata"]["name"]: read_rules(r.get("rules")) for r in stored}
    labels = {r["metadata"]["name"]: r["metadata"].get("labels") or {} for r in stored}
    selectors = {
        r["metadata"]["name"]: (r.get("aggregationRule") or {}).get("clusterRoleSelectors") or () for r in stored
    }

    def gather(name: str, seen: set[str]) -> list[Rule]:
        seen.add(name)
        out = list(own[name])
        for other in own:
            if other not in seen and any(_selects(selector, labels[other]) for selector in selectors[name]):
                out += gather(other, seen)
        return out

    return {name: gather(name, set()) if selectors[name] else rules for name, rules in own.items()}


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches; an empty one matches nothing here, as a role that aggregates all is a mistake."""
    equal, terms = selector.get("matchLabels") or {}, selector.get("matchExpressions") or ()
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    matches = all(labels.get(key) == value for key, value in equal.items())
    return (
        bool(equal or terms)
        and matches
        and all(
            term.get("operator") in tests and tests[term["operator"]](term.get("key"), term.get("values") or ())
            for term in terms
        )
    )


def _subject(subject: Mapping[str, Any], namespace: str) -> str:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "ServiceAccount":
        return f"User/{ACCOUNT_PREFIX}{subject.get('namespace') or namespace}:{name}"
    return f"{kind}/{name}"


def _has(held: frozenset[str], wanted: str) -> bool:
    return wanted in held or "*" in held


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))
