#!/usr/bin/env bash
# Trains on a machine that has only Python: installs what is missing into .venv, then becomes `python -m trainer.task`.
#
#   scripts/train.sh [flags of trainer.task]     (without any: --epochs 5)
#
# Paths in flags are relative to where it is called, from anywhere. Signals and exit codes are the trainer's own; its
# own are 2 (this machine or the environment cannot run it) and 1 (the installation failed; try again).
#
#   PYTHON=/path/to/python3   the Python 3.10 to 3.13 to make .venv with (default: the first found)
#   REQUIREMENTS=cpu or gpu   the lock in requirements/ (default: gpu where nvidia-smi finds a device)
set -euo pipefail
# shellcheck source=scripts/lib/venv.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/venv.sh"

# Asked last, because nvidia-smi can take seconds.
has_gpu() {
  [ "$(uname)" = Linux ] && command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q GPU
}

case "${REQUIREMENTS-}" in
  cpu | gpu) requirements=$REQUIREMENTS ;;
  '') if is_installed gpu || has_gpu; then requirements=gpu; else requirements=cpu; fi ;;
  *) die 2 "REQUIREMENTS must be cpu or gpu, not '$REQUIREMENTS'" ;;
esac
ensure_venv "$requirements"

[ $# -gt 0 ] || set -- --epochs 5
# -I: a directory called trainer where it is called must not be taken for this one. -u: a log shows each line at once.
exec "$venv/bin/python" -I -u -m trainer.task "$@"
