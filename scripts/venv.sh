# shellcheck shell=bash
# Makes .venv from a hashed lock and mends it; for train.sh and test.sh. Bash 3.2 suffices (macOS).
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
unset PYTHONHOME PYTHONPATH # another project's
usable='import ensurepip, fcntl, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'

die() { printf 'error: %s\n' "$2" >&2; exit "$1"; } # CODE MESSAGE

is_here() { [ "$(cat "$venv/installed/root" 2>/dev/null)" = "$root" ]; } # not moved

# .venv.lock is not empty while .venv is incomplete.
is_installed() { # NAME
  [ ! -s "$venv.lock" ] && is_here && cmp -s "$root/requirements/$1.txt" "$venv/installed/$1.txt"
}

ensure_venv() { # NAME
  local python
  is_installed "$1" && return
  [ -w "$root" ] || die 2 "cannot write to $root, where .venv is made"
  for python in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
    "$python" -c "$usable" 2>/dev/null && break
    [ "$python" != "${PYTHON:-python3.10}" ] ||
      die 2 "${PYTHON:-python3} cannot make .venv: needs Python 3.10 to 3.13\
 (PYTHON=/path/to/python3 names it) with venv (Debian, Ubuntu: apt-get install python3-venv)"
  done
  exec 9>>"$venv.lock" # the kernel's lock on it ends with the last process that holds it
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  is_installed "$1" || install "$1" "$python" # another start may have done it
  exec 9>&-
}

install() { # NAME PYTHON
  local size='up to 0.8 GB to download, 2.7 GB on disk, one to five minutes' name=$1
  [ "$name" != gpu ] || size='3.5 GB to download, 7 GB on disk, three to fifteen minutes'
  if [ -s "$venv.lock" ] || { [ -e "$venv/installed" ] && ! is_here; } ||
    ! "$venv/bin/python" -c "$usable" 2>/dev/null; then
    [ ! -e "$venv" ] || echo "Removing $venv, which is incomplete or was moved" >&2
    echo incomplete >"$venv.lock"
    rm -rf "$venv"
    "$2" -m venv "$venv" || die 1 "$2 could not make $venv"
  fi
  echo "Installing requirements/$name.txt into $venv: $size; once only" >&2
  echo incomplete >"$venv.lock"
  # Wheels only: no package's code runs. Byte code now: without it each start takes longer.
  set -- --quiet --require-hashes --no-deps --only-binary :all: -r "$root/requirements/$name.txt"
  uv pip install --python "$venv/bin/python" --compile-bytecode "$@" 2>/dev/null ||
    "$venv/bin/python" -I -m pip install --no-input --compile "$@" >&2 ||
    die 1 "could not install requirements/$name.txt; the same command tries again"
  echo "$root" >"$(echo "$venv"/lib/python3.*/site-packages)/number-recognition-trainer.pth"
  mkdir -p "$venv/installed"
  rm -f "$venv"/installed/*.txt
  cp "$root/requirements/cpu.txt" "$root/requirements/$name.txt" "$venv/installed/"
  echo "$root" >"$venv/installed/root"
  : >"$venv.lock"
}
