#!/usr/bin/env bash
# setup.sh run|dev: make .venv/ and install the locked packages (hashes checked). Safe to run again at any point.
set -euo pipefail
cd "$(dirname "$0")/.."
what="${1:?run or dev}"

python=""
for candidate in python3.11 python3.12 python3.13 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python="$candidate"
    break
  fi
done
[ -n "$python" ] || { echo "setup: Python 3.11 or newer is needed and none was found on PATH" >&2; exit 1; }

if [ ! -x .venv/bin/pip ]; then
  echo "setup: making .venv/ with $("$python" --version)"
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "setup: installing python3-venv, which Debian keeps apart from Python"
      log="$(mktemp)"
      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; } >"$log" 2>&1 \
        || { cat "$log" >&2; exit 1; }
      rm -f "$log"
    else
      echo "setup: this Python has no venv module: run 'sudo apt-get install python3-venv', then the same command again" >&2
      exit 1
    fi
  fi
  rm -rf .venv
  "$python" -m venv .venv
fi

echo "setup: installing the locked packages ($what)"
.venv/bin/pip install -q --disable-pip-version-check --require-hashes -r "requirements/$what.txt" 2> >(grep -v WARNING >&2)
.venv/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . >/dev/null
touch ".venv/.$what"
