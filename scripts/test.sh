#!/usr/bin/env bash
# Tests on a machine that has only Python: installs what is missing into .venv, then becomes pytest.
#
#   scripts/test.sh [arguments of pytest]
#
# Paths are relative to the repository. Without arguments all tests run, on all cores; those marked slow are left out unless
# asked for: -m slow. Tests that need the real MNIST files are skipped unless MNIST_DATA_DIR names their directory. PYTHON is
# read as in train.sh.
set -euo pipefail
# shellcheck source=scripts/lib/venv.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/venv.sh"

ensure_venv dev
cd "$root"
[ $# -gt 0 ] || set -- --numprocesses=auto --dist=loadfile
exec "$venv/bin/python" -m pytest "$@"
