"""Regenerate proto/gen from proto/*.proto: ``python -m proto.generate`` (needs grpcio-tools, a development dependency)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def generate(target: Path) -> None:
    """Write ``*_pb2.py`` for every .proto of this package into ``target``."""
    from grpc_tools import protoc  # noqa: PLC0415  development only

    sources = sorted(str(path) for path in HERE.glob("*.proto"))
    code = protoc.main(["protoc", f"-I{HERE}", f"--python_out={target}", *sources])
    if code != 0:
        raise SystemExit(f"protoc failed with {code}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "gen")
