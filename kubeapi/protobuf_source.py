"""Make ``protobuf.json.xz``: field numbers of the kinds that clients post as protobuf.

    python -m kubeapi.protobuf_source PATH-OF-KUBECTL

Go programs carry the descriptors of their protobuf messages, packed with gzip. Field numbers and names come from there;
which fields JSON inlines and which are required, from the OpenAPI definitions beside this file. What neither tells is
which scalar fields are pointers in Go, so that their zero means something: ``POINTERS``.
"""

import argparse
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from kubeapi.kinds import BUILT_IN
from kubeapi.protobuf import RAW, SPECIAL
from kubeapi.schema_source import REVIEWS
from kubeapi.schemas import definitions
from kubeapi.virtual_kinds import VIRTUAL

TARGET = Path(__file__).parent / "protobuf.json.xz"
GZIP = re.compile(rb"\x1f\x8b\x08\x00.{6}", re.DOTALL)
MAX_DESCRIPTOR_BYTES = 1 << 20
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXTRA = (META + "DeleteOptions", META + "Status")
POINTERS = frozenset(
    [
        "activeDeadlineSeconds",
        "allocateLoadBalancerNodePorts",
        "allowPrivilegeEscalation",
        "allowVolumeExpansion",
        "attachRequired",
        "automountServiceAccountToken",
        "averageUtilization",
        "backoffLimit",
        "backoffLimitPerIndex",
        "blockOwnerDeletion",
        "collisionCount",
        "completions",
        "controller",
        "currentCPUUtilizationPercentage",
        "defaultMode",
        "deletionGracePeriodSeconds",
        "enableServiceLinks",
        "endPort",
        "expirationSeconds",
        "failedJobsHistoryLimit",
        "fsGroup",
        "gracePeriodSeconds",
        "hostProcess",
        "hostUsers",
        "immutable",
        "leaseDurationSeconds",
        "leaseTransitions",
        "manualSelector",
        "maxFailedIndexes",
        "minDomains",
        "minReplicas",
        "mode",
        "nodeAllocatableUpdatePeriodSeconds",
        "optional",
        "orphanDependents",
        "parallelism",
        "podInfoOnMount",
        "priority",
        "privileged",
        "progressDeadlineSeconds",
        "readOnlyRootFilesystem",
        "recursiveReadOnlyMounts",
        "replicas",
        "requiresRepublish",
        "revisionHistoryLimit",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seLinuxMount",
        "serving",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "stabilizationWindowSeconds",
        "started",
        "startingDeadlineSeconds",
        "storageCapacity",
        "storageClassName",
        "succeededCount",
        "successfulJobsHistoryLimit",
        "supplementalGroupsPolicy",
        "suspend",
        "targetCPUUtilizationPercentage",
        "terminating",
        "terminatingReplicas",
        "terminationGracePeriodSeconds",
        "tolerationSeconds",
        "ttlSecondsAfterFinished",
        "userNamespaces",
        "volumeAttributesClassName",
    ]
)
# Pointers in one message and plain numbers in another of the same field name.
POINTERS_IN = {
    ("JobStatus", "ready"),
    ("EndpointConditions", "ready"),
    ("ClientIPConfig", "timeoutSeconds"),
    ("RollingUpdateStatefulSetStrategy", "partition"),
    ("FCVolumeSource", "lun"),
    ("VolumeNodeResources", "count"),
    ("NodeSwapStatus", "capacity"),
    ("VolumeError", "errorCode"),
}
NO_POINTERS_IN = {"ScaleSpec", "ScaleStatus", "PersistentVolumeSpec"}
RENAMED = {"uID": "uid", "aPIGroup": "apiGroup"}  # where protobuf and JSON names differ
SCALARS = {1: "d", 2: "d", 3: "i", 4: "i", 5: "i", 8: "B", 9: "s", 12: "b", 13: "i"}

Field = tuple[str, str, str]  # JSON name, type, flags


def descriptors(binary: bytes) -> dict[str, DescriptorProto]:
    """Return every Kubernetes message in a Go program by its full name, such as ``k8s.io.api.core.v1.Pod``."""
    found: dict[str, DescriptorProto] = {}
    for match in GZIP.finditer(binary):
        try:
            raw = zlib.decompressobj(31).decompress(binary[match.start() : match.start() + MAX_DESCRIPTOR_BYTES])
            file = FileDescriptorProto.FromString(raw)
        except Exception:  # noqa: BLE001, S112  some other gzip stream: protobuf's own error has no public class
            continue
        if file.package.startswith("k8s.io."):
            found.update(_messages(file.package, file.message_type))
    return found


def _messages(scope: str, messages: Any) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        yield f"{scope}.{message.name}", message
        yield from _messages(f"{scope}.{message.name}", message.nested_type)


def definition_of(message: str) -> str:
    """Return the OpenAPI name of a message: ``io.k8s.api.core.v1.Pod`` for ``k8s.io.api.core.v1.Pod``."""
    return "io.k8s." + message.removeprefix("k8s.io.")


def message_of(definition: str) -> str:
    return "k8s.io." + definition.removeprefix("io.k8s.")


def roots() -> dict[str, str]:
    """Return ``apiVersion/kind`` -> message for everything that may be a request's body."""
    kinds = {f"{res.api_version}/{res.kind}": message_of(res.definition) for res in (*BUILT_IN, *VIRTUAL)}
    for name in (*REVIEWS, *EXTRA):
        group, version, kind = name.split(".")[-3:]
        known = {"authentication": "authentication.k8s.io", "authorization": "authorization.k8s.io", "core": ""}
        group = "" if group == "meta" else known.get(group, group)
        kinds.setdefault(f"{group}/{version}/{kind}".lstrip("/"), message_of(name))
    return kinds


def table(messages: dict[str, DescriptorProto]) -> dict[str, Any]:
    """Return what ``kubeapi.protobuf`` reads."""
    kinds = {kind: message for kind, message in roots().items() if message in messages}
    out: dict[str, dict[str, Field]] = {}
    todo = sorted(set(kinds.values()))
    while todo:
        name = todo.pop()
        if name in out or name in SPECIAL or name in RAW:
            continue
        message = messages[name]
        out[name] = {str(f.number): field_of(name, message, f, messages) for f in message.field}
        todo += [kind for _, kind, _ in out[name].values() if kind in messages]
    return {"kinds": kinds, "messages": out}


def field_of(name: str, message: DescriptorProto, field: FieldDescriptorProto, messages: dict[str, Any]) -> Field:
    if field.type != FieldDescriptorProto.TYPE_MESSAGE:
        return (
            name_of(field),
            SCALARS[field.type],
            ("r" if field.label == 3 else "") + kept(name, message.name, field.name),
        )
    kind = field.type_name.lstrip(".")
    entry = messages.get(kind)
    if entry is not None and entry.options.map_entry:
        value = next(f for f in entry.field if f.number == 2)
        text = value.type_name.lstrip(".") if value.type == FieldDescriptorProto.TYPE_MESSAGE else SCALARS[value.type]
        return name_of(field), text, "m"
    schema = definitions().get(definition_of(name))
    inline = schema is not None and name_of(field) not in schema.get("properties", {})
    return name_of(field), kind, ("r" if field.label == 3 else "") + ("n" if inline else "")


def name_of(field: FieldDescriptorProto) -> str:
    return RENAMED.get(field.name, field.name)


def kept(full_name: str, message: str, field: str) -> str:
    """Return "k" when a zero is more than an absent value."""
    required = definitions().get(definition_of(full_name), {}).get("required", ())
    pointer = (field in POINTERS and message not in NO_POINTERS_IN) or (message, field) in POINTERS_IN
    return "k" if pointer or field in required else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Make protobuf.json.xz from a kubectl binary.")
    parser.add_argument("kubectl", type=Path)
    made = table(descriptors(parser.parse_args().kubectl.read_bytes()))
    raw = json.dumps(made, sort_keys=True, separators=(",", ":")).encode()
    TARGET.write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
