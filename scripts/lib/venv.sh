# shellcheck shell=bash
# Makes .venv from a hashed lock and mends it; sourced by train.sh and test.sh so that both start alike.
#
# .venv/installed/NAME.txt is a copy of the lock that was installed: a start that finds it equal to
# requirements/NAME.txt has nothing to do. .venv.lock is locked by whoever installs, and it is not empty from the
# first change of .venv to the last, so that an interrupted installation is known and made anew.
# Written for bash 3.2 and BSD tools, which is what macOS has.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
venv=$root/.venv

# Another project's settings must not reach this one.
unset PYTHONHOME PYTHONPATH

cpu_size="0.7 GB to download, 2.4 GB on disk, one to five minutes; once only"
dev_size="the tests' tools, 60 MB to download; once only" # beside what training needs
gpu_size="3.5 GB to download, 7 GB on disk, three to fifteen minutes; once only"

die() { # CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

# Says what keeps an interpreter from making .venv, as its exit message; any Python since 2.6 can run it.
probe='
import platform, sys
version = sys.version_info[:2]
if not (3, 10) <= version <= (3, 13):
    sys.exit("it is Python %d.%d" % version)
if (platform.system(), platform.machine()) not in [
    ("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")
]:
    sys.exit("TensorFlow 2.21 has no build for %s %s" % (platform.system(), platform.machine()))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("it cannot make virtual environments (on Debian and Ubuntu: apt-get install python%d.%d-venv)" % version)
'

# Prints the first interpreter that can make .venv.
find_python() {
  local candidate reason found=''
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
    if ! command -v "$candidate" >/dev/null; then
      reason="no such program"
    elif reason=$("$candidate" -c "$probe" 2>&1); then
      command -v "$candidate"
      return
    else
      reason=${reason##*$'\n'}
      reason=${reason:-it does not run}
      found="${found:+$found; }$candidate: $reason"
    fi
    if [ "$candidate" = "${PYTHON-}" ]; then
      die 2 "PYTHON=$candidate cannot be used: $reason"
    fi
  done
  die 2 "needs Python 3.10 to 3.13: install one, or name it with PYTHON=/path/to/python3${found:+ (tried $found)}"
}

is_installed() { # NAME
  [ ! -s "$venv.lock" ] && [ -x "$venv/bin/python" ] && is_at_home &&
    cmp -s "$root/requirements/$1.txt" "$venv/installed/$1.txt"
}

# A virtual environment does not survive a move of its directory.
is_at_home() {
  [ "$root" = "$(cat "$venv/installed/root" 2>/dev/null)" ]
}

# Whether packages can be added to the .venv that is there, which may be one that the user made.
is_usable() {
  [ ! -s "$venv.lock" ] && { [ ! -e "$venv/installed" ] || is_at_home; } &&
    "$venv/bin/python" -I -c "$probe"$'\nimport pip' 2>/dev/null
}

# Waits until nobody else installs. The kernel's lock on descriptor 9 goes with the last process that holds it, so it
# cannot go stale, and a pip that outlives this shell keeps it. Bash has no flock on macOS; Python has.
lock_venv() { # PYTHON
  exec 9>>"$venv.lock" || die 2 "cannot write to $root, where .venv is made"
  "$1" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.stderr.write("Waiting for another start that is installing\n")
    fcntl.flock(9, fcntl.LOCK_EX)
'
}

# Installs requirements/NAME.txt into .venv unless it is there.
ensure_venv() { # NAME
  local name=$1 python
  if is_installed "$name"; then
    return
  fi
  [ -w "$root" ] || die 2 "cannot write to $root, where .venv is made"
  python=$(find_python)
  lock_venv "$python"
  if ! is_installed "$name"; then # nobody else did it while this start waited
    install "$name" "$python"
  fi
  exec 9>&-
}

install() { # NAME PYTHON
  local name=$1 python=$2 size=$cpu_size other site
  local quiet=--quiet
  [ "$name" != gpu ] || size=$gpu_size
  [ ! -t 2 ] || quiet=--progress-bar=on
  if [ -e "$venv" ] && ! is_usable; then
    echo "Removing $venv: its installation was interrupted, or it was moved, or its Python is gone" >&2
    echo removing >"$venv.lock"
    rm -rf "$venv"
  fi
  if [ "$name" = dev ] && cmp -s "$root/requirements/cpu.txt" "$venv/installed/cpu.txt"; then
    size=$dev_size
  fi
  echo "Installing requirements/$name.txt into $venv: $size" >&2
  echo installing >"$venv.lock"
  [ -e "$venv" ] || "$python" -m venv "$venv" || die 1 "$python could not make $venv; the lines above say why"
  mkdir -p "$venv/installed"
  for other in "$venv"/installed/*.txt; do # of older locks: what they say is no longer there
    cmp -s "$other" "$root/requirements/${other##*/}" || rm -f "$other"
  done

  # --compile: without byte code every start would take three times as long, whatever PYTHONDONTWRITEBYTECODE says.
  # Wheels only: nothing is built here, and no package's set-up code runs.
  "$venv/bin/python" -I -m pip install $quiet --disable-pip-version-check --no-input --compile \
    --require-hashes --no-deps --only-binary :all: -r "$root/requirements/$name.txt" >&2 ||
    die 1 "could not install requirements/$name.txt (the lines above say why); the same command tries again"
  # The package itself: what an editable installation comes to, but with nothing to build.
  for site in "$venv"/lib/python3.*/site-packages; do
    printf '%s\n' "$root" >"$site/number-recognition-trainer.pth"
  done

  cp "$root/requirements/cpu.txt" "$venv/installed/" # every lock contains this one
  cp "$root/requirements/$name.txt" "$venv/installed/"
  printf '%s\n' "$root" >"$venv/installed/root"
  : >"$venv.lock"
}
