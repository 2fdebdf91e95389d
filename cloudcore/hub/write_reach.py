"""What a node comes to hold with an object that it writes, because the object names it (pure).

The same functions as the scope's own, so that no way into a node's scope is open to a write and closed to this check.
"""

from typing import Any

from cloudcore.hub.scope_pods import OWNERS, account, needs, owners
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CLAIM, RUNTIME_CLASS, SERVICE_ACCOUNT
from proto import templates
from proto.kit.errors import MalformedMessage
from proto.names import ObjectKey, parse_key

Json = dict[str, Any]
OWNED = {(kind.group, kind.plural): kind for kind in OWNERS}
HARMLESS = (CLAIM.plural, RUNTIME_CLASS.plural)  # nothing secret is in these
# A pod's spec is found by its kind: whoever calls a Pod something else would hide it.
KINDS = {(group, f"{kind.lower()}s"): kind for group, kind in templates.PATHS}


def reached(key: ObjectKey, obj: Json) -> set[str]:
    """Return the keys of what ``obj`` brings along. Raises MalformedMessage."""
    name, found = Name(key.namespace, key.name), templates.pod_spec(obj)
    owned = OWNED.get((key.group, key.plural))
    try:
        out = set(needs(key.namespace, found[1])) if found is not None else set()
        if owned is not None:
            out |= {below for _, below in owners(owned, name, obj)}
        if (key.group, key.plural) == (SERVICE_ACCOUNT.group, SERVICE_ACCOUNT.plural):
            out |= {below for _, below in account(name, obj)}
        return {each for each in out if not each.startswith("@") and parse_key(each).plural not in HARMLESS}
    except (AttributeError, KeyError, TypeError) as error:
        raise MalformedMessage(f"{key} has a shape that no API server takes") from error
