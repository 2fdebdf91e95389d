"""What the embedded API adds to the device kinds: documents of another shape are refused with what to change.

A real cluster says the same through the CRDs' own validation rule.
"""

from devicetwin.model import GROUP
from devicetwin.versions import explain_v1alpha2
from kubeapi.admission import Attempt
from kubeapi.errors import bad_request


def refuse_old_devices(attempt: Attempt) -> None:
    """Raise 400 for a v1alpha2 Device, DeviceModel or DeviceStatus."""
    if attempt.res.group != GROUP or attempt.obj is None or attempt.verb == "DELETE":
        return
    reason = explain_v1alpha2(attempt.obj)
    if reason is not None:
        raise bad_request(reason)
