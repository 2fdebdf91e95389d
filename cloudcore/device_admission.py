"""What the embedded API adds to the device kinds: documents of another shape are refused with what to change.

A real cluster says the same through the CRDs' own validation rule.
"""

import re
from typing import Any

from devicetwin.model import GROUP, bound
from devicetwin.versions import explain_v1alpha2
from kubeapi.admission import Attempt
from kubeapi.errors import Cause, bad_request, invalid

NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def refuse_impossible_devices(attempt: Attempt) -> None:
    """Raise 422 for what is well-formed and can never work: a range without values, a name that no node can have."""
    if attempt.res.group != GROUP or attempt.obj is None or attempt.subresource:
        return
    spec = attempt.obj.get("spec") or {}
    causes = _ranges(spec) if attempt.res.kind == "DeviceModel" else []
    node = spec.get("nodeName")
    if attempt.res.kind == "Device" and node and not NODE_NAME.fullmatch(str(node)):
        text = f'Invalid value: "{node}": the name of a node is lower case letters, digits, "-" and "."'
        causes = [Cause("FieldValueInvalid", "spec.nodeName", text)]
    if causes:
        raise invalid(attempt.res, attempt.name, causes)


def _ranges(spec: dict[str, Any]) -> list[Cause]:
    out = []
    for number, entry in enumerate(spec.get("properties") or ()):
        low, high = bound(entry.get("minimum")), bound(entry.get("maximum"))
        if low is not None and high is not None and low > high:
            text = f'Invalid value: "{entry["minimum"]}": must not be above maximum ({entry["maximum"]})'
            out.append(Cause("FieldValueInvalid", f"spec.properties[{number}].minimum", text))
    return out


def refuse_old_devices(attempt: Attempt) -> None:
    """Raise 400 for a v1alpha2 Device, DeviceModel or DeviceStatus."""
    if attempt.res.group != GROUP or attempt.obj is None or attempt.verb == "DELETE":
        return
    reason = explain_v1alpha2(attempt.obj)
    if reason is not None:
        raise bad_request(reason)
