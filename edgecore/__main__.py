"""``python -m edgecore`` and the console script ``edgecore``."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends without a traceback; main takes over

from edgecore.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
