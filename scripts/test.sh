#!/usr/bin/env bash
# Makes .venv if it is missing, then becomes pytest: all tests (with MNIST, if $MNIST_DATA_DIR has it).
set -euo pipefail
# shellcheck source=scripts/venv.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/venv.sh"
ensure_venv dev
cd "$root"
[ $# -gt 0 ] || set -- --numprocesses=auto --dist=loadfile --no-loadscope-reorder
exec "$venv/bin/python" -m pytest "$@"
