"""``python -m cloudcore`` and the console script ``cloudcore``."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends without a traceback; main takes over

from cloudcore.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
