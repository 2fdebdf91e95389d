"""kubectl of each supported version, with a fresh home, against a running API."""

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.kubectl import VERSIONS, provide

__all__ = ["VERSIONS", "Kubectl", "until"]

COMMAND_TIMEOUT_S = 60


@dataclass
class Kubectl:
    """One version with one kubeconfig; ``home`` holds its caches and must be new for a test that is not about caches."""

    version: str
    kubeconfig: Path
    home: Path
    namespace: str = "default"
    env: dict[str, str] = field(default_factory=dict)

    def run(
        self, command: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``command`` (without the leading ``kubectl``) to its end."""
        return subprocess.run(
            self.argv(command),
            input=stdin,
            text=True,
            capture_output=True,
            env=self.environment(env),
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def start(self, command: str, out: Path) -> "subprocess.Popen[bytes]":
        """Start ``command``; its standard output goes to the file ``out``."""
        with out.open("wb") as file:
            return subprocess.Popen(self.argv(command), stdout=file, stderr=file, env=self.environment(None))

    def argv(self, command: str) -> list[str]:
        flags = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.home}/cache", f"--namespace={self.namespace}"]
        return [str(provide(self.version)), *flags, *shlex.split(command)]

    def environment(self, env: dict[str, str] | None) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        # A kubectl lives for a blink: collecting its garbage is a fifth of what it costs.
        return {**kept, "GOGC": "400", "HOME": str(self.home), **self.env, **(env or {})}


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait, in a test that blocks, for ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still false after {timeout_s} s"
        time.sleep(0.02)
