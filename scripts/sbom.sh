#!/usr/bin/env bash
# Prints the CycloneDX bill of materials (JSON) of a lock: packages, versions, package URLs, SHA-256 of their files.
#
#   scripts/sbom.sh [cpu | gpu | dev]
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../requirements"
PATH=$PATH:$PWD/../.venv/bin
case ${1-cpu} in
  cpu | gpu | dev) ;;
  *) echo "error: unknown lock '$1'" >&2; exit 2 ;;
esac
exec uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements "${1-cpu}.txt" --output-reproducible
