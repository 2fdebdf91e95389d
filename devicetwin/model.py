"""What a Device and its DeviceModel say, read once into small values. Fields are KubeEdge's (devices.kubeedge.io/v1beta1)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from devicetwin.values import FROM_MODEL, STRING, BadValue, check_range, check_type

GROUP = "devices.kubeedge.io"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
DEFAULT_NAMESPACE = "default"


class DeviceId(msgspec.Struct, frozen=True, gc=False):
    """Namespace and name; ``str`` gives KubeEdge's device id."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class PropertySpec(msgspec.Struct, frozen=True):
    """One property of a device: what its model allows and what its Device asks for."""

    name: str
    type: str = STRING  # a twin type, values.FROM_MODEL
    read_only: bool = False
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    desired: str | None = None  # None: nothing asked, or what is asked is invalid (then ``problem`` says why)
    problem: str = ""
    report_to_cloud: bool = True
    collect_cycle_ms: int = 0  # 0: the mapper's own
    report_cycle_ms: int = 0  # 0: with every collection
    visitor: Mapping[str, Any] = {}  # model's configData with the instance's over it

    def check(self, value: str) -> None:
        """Raise BadValue unless the model allows ``value`` (TWIN-13)."""
        check_type(self.type, value)
        check_range(self.name, self.type, value, self.minimum, self.maximum)


class DeviceSpec(msgspec.Struct, frozen=True):
    """A Device as its node sees it."""

    id: DeviceId
    uid: str
    generation: int
    node: str = ""
    model: str = ""
    model_found: bool = True  # False: named, but not here (yet); nothing is then asked of the device (TWIN-13)
    protocol: str = ""
    config: Mapping[str, Any] = {}
    properties: Mapping[str, PropertySpec] = {}
    labels: Mapping[str, str] = {}
    description: str = ""
    state_report_to_cloud: bool = True

    def problems(self) -> dict[str, str]:
        """Return property -> one sentence for everything that the Device asks and its model refuses."""
        return {name: p.problem for name, p in self.properties.items() if p.problem}


def model_key(device: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (namespace, name) of the DeviceModel that a Device object refers to; None when it names none."""
    reference = _mapping(_mapping(device.get("spec")).get("deviceModelRef"))
    name = reference.get("name")
    namespace = _mapping(device.get("metadata")).get("namespace") or DEFAULT_NAMESPACE
    return (str(namespace), name) if isinstance(name, str) and name else None


def read_device(device: Mapping[str, Any], model: Mapping[str, Any] | None) -> DeviceSpec:
    """Return the spec in a Device object and the DeviceModel it refers to (None: not here). Never raises on their content."""
    metadata = _mapping(device.get("metadata"))
    spec = _mapping(device.get("spec"))
    model_spec = _mapping(model.get("spec")) if model is not None else {}
    rules = {p["name"]: p for p in _list(model_spec.get("properties")) if isinstance(p.get("name"), str)}
    named = model_key(device)
    missing = f"device model {named[1]} is not on this node yet" if named and model is None else ""
    known = None if model is None else rules
    protocol = _mapping(spec.get("protocol"))
    entries = {e["name"]: e for e in _list(spec.get("properties")) if isinstance(e.get("name"), str)}
    names = dict.fromkeys([*entries, *rules])
    properties = {n: _property(n, entries.get(n, {}), known, missing) for n in names if n}
    return DeviceSpec(
        id=DeviceId(str(metadata.get("namespace") or DEFAULT_NAMESPACE), str(metadata.get("name", ""))),
        uid=str(metadata.get("uid", "")),
        generation=_int(metadata.get("generation")),
        node=str(spec.get("nodeName", "")),
        model=named[1] if named else "",
        model_found=named is None or model is not None,
        protocol=str(protocol.get("protocolName") or model_spec.get("protocol") or ""),
        config={**_mapping(model_spec.get("protocolConfigData")), **_mapping(protocol.get("configData"))},
        properties=properties,
        labels={str(k): str(v) for k, v in _mapping(metadata.get("labels")).items()},
        description=str(_mapping(metadata.get("annotations")).get("description", "")),
        state_report_to_cloud=_mapping(spec.get("stateReport")).get("reportToCloud") is not False,
    )


def _property(name: str, entry: Mapping[str, Any], rules: Mapping[str, Any] | None, missing: str) -> PropertySpec:
    """``rules``: the model's properties, None when no model is there; ``missing`` then says which one is not."""
    known = _mapping(rules.get(name)) if rules is not None else {}
    visitor = {
        **_mapping(_mapping(known.get("visitors")).get("configData")),
        **_mapping(_mapping(entry.get("visitors")).get("configData")),
    }
    bare = PropertySpec(
        name=name,
        type=FROM_MODEL.get(str(known.get("type", "STRING")), STRING),
        read_only=known.get("accessMode") == "ReadOnly",
        minimum=bound(known.get("minimum")),
        maximum=bound(known.get("maximum")),
        unit=str(known.get("unit", "")),
        report_to_cloud=entry.get("reportToCloud") is not False,
        collect_cycle_ms=_int(entry.get("collectCycle")),
        report_cycle_ms=_int(entry.get("reportCycle")),
        visitor=visitor,
    )
    desired = _mapping(entry.get("desired")).get("value")
    if rules is not None and not known:
        return msgspec.structs.replace(bare, problem=f"property {name} is not in the device model")
    if not isinstance(desired, str):
        return bare
    problem = missing or _refusal(bare, desired)
    return msgspec.structs.replace(bare, desired=None if problem else desired, problem=problem)


def _refusal(prop: PropertySpec, desired: str) -> str:
    """Say why ``desired`` cannot be asked of ``prop``; empty when it can (TWIN-13)."""
    if prop.read_only:
        return f"property {prop.name} is ReadOnly in the device model: it takes no desired value"
    try:
        prop.check(desired)
    except BadValue as error:
        return f"desired value {desired[:64]!r} of {prop.name} is refused: {error}"
    return ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def bound(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
