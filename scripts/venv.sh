# shellcheck shell=bash
# Makes .venv from the wheels of a hashed lock, for train.sh and test.sh; Bash 3.2 suffices (macOS).
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
usable='import ensurepip, fcntl, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'

die() { printf 'error: %s\n' "$2" >&2; exit "$1"; } # CODE MESSAGE
is_complete() { [ "$(cat "$venv/installed/root" 2>/dev/null)" = "$root" ]; } # and not moved
is_installed() { is_complete && cmp -s "$root/requirements/$1.txt" "$venv/installed/$1.txt"; } # NAME

ensure_venv() { # NAME
  is_installed "$1" && return
  [ -e "$root/requirements/$1.txt" ] || die 2 "REQUIREMENTS must be cpu or gpu, not '$1'"
  for python in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
    "$python" -c "$usable" 2>/dev/null && break
    [ "$python" != "${PYTHON:-python3.10}" ] || die 2 "${PYTHON:-python3} cannot make .venv: needs\
 Python 3.10 to 3.13 (PYTHON=/path/to/python3) with venv (Debian: apt-get install python3-venv)"
  done
  exec 9>>"$venv.lock" # the kernel's lock on it ends with the last process that holds it
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  is_installed "$1" || install "$1" "$python" # another start may have done it
  exec 9>&-
}

show_progress() { # a line on the terminal, while the installer is silent
  local started=$SECONDS sizes
  while sleep 1 && kill -0 $$; do
    sizes=$(du -sm "$venv" "${TMPDIR:-/tmp}"/pip-* | cut -f1 | paste -sd+ -) || true
    printf '\r  %d s, %d MB on disk ' "$((SECONDS - started))" "$((sizes))" >&3
  done 3>&2 2>/dev/null
}

install() { # NAME PYTHON
  local name=$1 lock=$root/requirements/$1.txt ticker='' code=0 size
  case $name in
    gpu) size="3.5 GB to download, 5 to 15 minutes" ;;
    dev) size="0.85 GB to download, 1 to 5 minutes" ;;
    *) size="0.7 GB to download, 1 to 5 minutes" ;;
  esac
  [ "$name" != dev ] || ! is_installed cpu || size="0.12 GB more to download, half a minute"
  echo "Installing $lock into $venv, once: $size" >&2
  # An environment without this mark is somebody's own; lib/ goes before the mark does.
  [ ! -e "$venv/installed" ] || is_complete || rm -rf "${venv:?}/lib" "$venv"
  mkdir -p "$venv/installed" && rm -f "$venv/installed"/*
  [ -e "$venv/lib" ] || "$2" -m venv "$venv" || die 1 "$2 could not make $venv"
  set -- --quiet --require-hashes --no-deps --only-binary :all: -r "$lock"
  [ ! -t 2 ] || { show_progress 9>&- & ticker=$!; }
  uv pip install --python "$venv/bin/python" --compile-bytecode "$@" 2>/dev/null ||
    "$venv/bin/python" -I -m pip install --no-input --compile "$@" >&2 || code=$?
  if [ -n "$ticker" ]; then
    { kill "$ticker" && wait "$ticker"; } 2>/dev/null || printf '\r\033[K' >&2
  fi
  [ "$code" = 0 ] || die 1 "could not install $lock; the same command tries again"
  echo "$root" >"$(echo "$venv"/lib/python3.*/site-packages)/number-recognition-trainer.pth"
  cp "$root/requirements/cpu.txt" "$venv/installed/cpu.txt" && cp "$lock" "$venv/installed/$name.txt"
  echo "$root" >"$venv/installed/root"
}
