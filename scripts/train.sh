#!/usr/bin/env bash
# Makes .venv if it is missing, then becomes `python -m trainer.task`; without flags --epochs 5.
# PYTHON names the Python 3.10 to 3.13 to use; REQUIREMENTS=cpu or gpu the lock in requirements/.
set -euo pipefail
# shellcheck source=scripts/venv.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/venv.sh"

requirements=${REQUIREMENTS:-cpu}
if [ -z "${REQUIREMENTS-}" ] && { is_installed gpu || nvidia-smi -L 2>/dev/null | grep -q GPU; }; then
  requirements=gpu
fi
case $requirements in cpu | gpu) ;; *) die 2 "REQUIREMENTS must be cpu or gpu, not '$requirements'" ;; esac
ensure_venv "$requirements"
[ $# -gt 0 ] || set -- --epochs 5
# -I: a directory `trainer` where this is called is not imported.
exec "$venv/bin/python" -I -u -m trainer.task "$@"
