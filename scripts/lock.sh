#!/usr/bin/env bash
# Compiles requirements/cpu.txt, gpu.txt and dev.txt from setup.cfg with uv: every package with its version and hashes,
# one file for Python 3.10 to 3.13 on Linux and macOS; the three agree on every version.
#
#   scripts/lock.sh             what setup.cfg has changed; every other version stays
#   scripts/lock.sh --upgrade   the newest versions that setup.cfg allows
#   scripts/lock.sh --check     changes nothing; exit 1 if the locks no longer follow from setup.cfg
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
case ${1-} in
  '' | --upgrade | --check) ;;
  *) echo "error: unknown option '$1': --upgrade or --check" >&2; exit 2 ;;
esac
command -v uv >/dev/null || { echo "error: no uv; ./scripts/test.sh installs it into .venv" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R setup.cfg pyproject.toml LICENSE trainer "$work"
mkdir "$work/requirements"
[ "${1-}" = --upgrade ] || cp requirements/*.txt "$work/requirements"

compile() { # NAME OPTIONS
  local name=$1
  shift
  (cd "$work" && uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
    --custom-compile-command scripts/lock.sh --output-file "requirements/$name.txt" "$@" setup.cfg)
}
code=0
{ compile cpu && compile gpu --extra gpu --constraints requirements/cpu.txt &&
  compile dev --extra dev --constraints requirements/cpu.txt; } || code=$?

if [ "${1-}" != --check ]; then
  [ "$code" = 0 ] || exit "$code"
  cp "$work"/requirements/*.txt requirements/
elif [ "$code" -gt 1 ]; then # 1: requirements that contradict each other
  echo "locks not checked: the package index cannot be reached" >&2
elif [ "$code" = 1 ] || ! diff -r requirements "$work/requirements" >&2; then
  echo "error: requirements/*.txt do not follow from setup.cfg; run scripts/lock.sh" >&2
  exit 1
fi
