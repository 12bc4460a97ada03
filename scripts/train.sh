#!/usr/bin/env bash
# Makes .venv if it is missing, then becomes `python -m trainer.task`; without flags --epochs 5.
# PYTHON names the Python 3.10 to 3.13 to use; REQUIREMENTS=cpu or gpu the lock in requirements/.
set -euo pipefail
# shellcheck source=scripts/venv.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/venv.sh"
if [ -z "${REQUIREMENTS-}" ] && { is_installed gpu || nvidia-smi -L 2>/dev/null | grep -q GPU; }; then
  REQUIREMENTS=gpu
fi
ensure_venv "${REQUIREMENTS:-cpu}"
[ $# -gt 0 ] || set -- --epochs 5
exec "$venv/bin/python" -I -u -m trainer.task "$@" # -I: not a `trainer` in the current directory
