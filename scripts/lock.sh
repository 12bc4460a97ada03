#!/usr/bin/env bash
# Compiles requirements/*.txt from setup.cfg. Apart from the set-up because only who changes a dependency runs it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/lock.sh [--upgrade | --check]

Compiles requirements/cpu.txt, gpu.txt and dev.txt from setup.cfg with uv: every package with its exact
version and hashes, one file for Python 3.10 to 3.13 on Linux and macOS. The three agree on every version.

  (nothing)  what setup.cfg has changed; every other version stays as it is
  --upgrade  the newest version of everything that setup.cfg allows
  --check    change nothing; exit 1 if the locks no longer follow from setup.cfg
             (with no uv or no network: say so and exit 0)
TEXT
}

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

mode=${1-}
case "$mode" in
  '' | --upgrade | --check) ;;
  -h | --help) usage; exit 0 ;;
  *) echo "error: unknown option '$mode'; see scripts/lock.sh --help" >&2; exit 2 ;;
esac

PATH=$root/.venv/bin:$PATH
if ! command -v uv >/dev/null; then
  if [ "$mode" = --check ]; then
    echo "locks not checked: no uv here (./scripts/test.sh installs it)" >&2
    exit 0
  fi
  echo "error: uv is not installed; ./scripts/test.sh installs it into .venv" >&2
  exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/requirements"
cp setup.cfg pyproject.toml LICENSE "$work"
cp -R trainer "$work/trainer"
[ "$mode" = --upgrade ] || cp requirements/*.txt "$work/requirements/" 2>/dev/null || true
cd "$work"

compile() {
  local name=$1
  shift
  uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
    --custom-compile-command scripts/lock.sh --output-file "requirements/$name.txt" "$@" setup.cfg
}

status=0
{
  compile cpu &&
    compile gpu --extra gpu --constraints requirements/cpu.txt &&
    compile dev --extra dev --constraints requirements/cpu.txt
} || status=$?

if [ "$mode" != --check ]; then
  [ "$status" = 0 ] || exit "$status"
  cp requirements/*.txt "$root/requirements/"
elif [ "$status" = 1 ]; then # uv's exit code for requirements that contradict each other
  exit 1
elif [ "$status" != 0 ]; then
  echo "locks not checked: the package index cannot be reached" >&2
elif ! diff -r "$root/requirements" requirements >&2; then
  echo "error: requirements/*.txt do not follow from setup.cfg; run scripts/lock.sh" >&2
  exit 1
fi
