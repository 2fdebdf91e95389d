#!/usr/bin/env bash
# Write the lock files anew: hashes of every wheel of every platform, no index, no URL.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { # output, arguments
  local out="$1"; shift
  .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-annotate --no-header -q "$@" -o "$out"
  if grep -nE '://' "$out"; then echo "lock: $out holds a URL" >&2; exit 1; fi
}
compile requirements/dev.txt --extra dev --extra build
compile requirements/run.txt --extra build -c requirements/dev.txt
