"""How the programs of this package are started: with this very code, and nothing else of Python's paths."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[3])
PYTHON = os.path.realpath(sys.executable)
_BOOT = (
    "import sys;sys.path.insert(0,sys.argv[1]);name=sys.argv[2];del sys.argv[1:3];"
    "__import__('edgecore.pods.process.shim.'+name,fromlist=['main']).main()"
)


def argv(*program: str) -> list[str]:
    """Return the command line of a module of ``shim``; more words may follow the module's name."""
    return [PYTHON, "-I", "-S", "-E", "-c", _BOOT, ROOT, *program]


def roots() -> list[str]:
    """Return the folders that such a program needs beside the system's libraries."""
    found = [sys.base_prefix, str(Path(PYTHON).parent), ROOT]
    return [path for path in dict.fromkeys(map(os.path.realpath, found)) if path not in {"/usr", "/usr/bin"}]
