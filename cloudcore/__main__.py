"""``python -m cloudcore`` and the console script ``cloudcore``."""

import sys

from cloudcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
