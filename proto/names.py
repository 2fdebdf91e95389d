"""Names of nodes and keys of objects, both directions."""

import re
from typing import NamedTuple

from proto.kit.errors import MalformedMessage

NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
MAX_NODE_NAME = 52  # a common name holds 64 characters (RFC 5280 ub-common-name), `system:node:` takes 12 of them


class ObjectKey(NamedTuple):
    """Which object: ``group`` "" is the core group, ``namespace`` "" is cluster scope."""

    group: str
    plural: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.group or 'core'}/{self.plural}/{self.namespace or '-'}/{self.name}"


def parse_key(text: str) -> ObjectKey:
    """Read back ``str(ObjectKey)``; raises MalformedMessage."""
    parts = text.split("/")
    if len(parts) != 4 or not all(parts):
        raise MalformedMessage(f"object key {text[:80]!r} is not group/plural/namespace/name")
    group, plural, namespace, name = parts
    return ObjectKey("" if group == "core" else group, plural, "" if namespace == "-" else namespace, name)


def is_node_name(text: str) -> bool:
    """Whether ``text`` may name a node: a DNS-1123 label."""
    return len(text) <= MAX_NODE_NAME and NODE_NAME.fullmatch(text) is not None
