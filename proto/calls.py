"""What the cloud (or the node-local API) asks of a node while somebody waits: logs, exec, attach, port-forward, figures.

A ``Call`` opens ``Channels`` (proto.kit.channels) at the node. Over the link it travels in the frame that opens a stream.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from proto.kit.channels import Channels
from proto.kit.errors import Terminal

Kind = Literal["logs", "exec", "attach", "portforward", "stats", "metrics", "ping"]
MAX_CALL_BYTES = 64 << 10


class CallRefused(Terminal):
    """The node says no before anything flows. ``status`` is an HTTP status, ``reason`` a Kubernetes reason."""

    code = "CallRefused"

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call. Which fields count depends on ``kind``; a field that does not is ignored.

    logs         STDOUT carries the lines; ``follow`` until the container ends
    exec         STDIN, STDOUT, STDERR, RESIZE; ERROR carries one metav1.Status (JSON) as its last word
    attach       as exec
    portforward  DATA both ways for one TCP connection to ``port``; ERROR carries a sentence when it cannot be made
    stats        STDOUT carries a kubelet Summary (JSON): ``/stats/summary``
    metrics      STDOUT carries Prometheus text: ``/metrics/resource``
    ping         STDIN is echoed on STDOUT: for self-tests
    """

    kind: Kind
    namespace: str = ""
    pod: str = ""
    container: str = ""  # "" : the pod's only or default container
    command: list[str] = []
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since_seconds: int | None = None
    since_time: str = ""  # RFC 3339
    limit_bytes: int | None = None


# Opens a call. Raises CallRefused, Retryable (the node is away).
OpenCall = Callable[[Call], Awaitable[Channels]]


def exit_status(code: int) -> dict[str, Any]:
    """Return the metav1.Status that ends an exec: Success for 0, else NonZeroExitCode with the code as its cause."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
