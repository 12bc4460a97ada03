#!/usr/bin/env bash
# Prints the bill of materials of an installation, from its lock. Apart from lock.sh because only who ships it needs it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/sbom.sh [cpu | gpu | dev]

Prints a CycloneDX 1.6 bill of materials (JSON) of requirements/<name>.txt, cpu by default: every package with its
version, package URL and the SHA-256 of its files. The same lock gives the same bytes. The tool is OWASP's
cyclonedx-bom, run by uv in an environment of its own, so that nothing of it is installed with the trainer.
TEXT
}

case "${1-cpu}" in
  cpu | gpu | dev) ;;
  -h | --help) usage; exit 0 ;;
  *) echo "error: unknown lock '$1'; see scripts/sbom.sh --help" >&2; exit 2 ;;
esac

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
PATH=$PATH:$root/.venv/bin
if ! command -v uv >/dev/null; then
  echo "error: uv is not installed; ./scripts/test.sh installs it into .venv" >&2
  exit 2
fi
cd "$root/requirements"
exec uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements "${1-cpu}.txt" --output-reproducible
