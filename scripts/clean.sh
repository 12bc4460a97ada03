#!/usr/bin/env bash
# Removes a run from the cluster: its Job, pods and settings, whether it has finished or not. Its files on the volume
# stay, so that the same name submitted again goes on from the last checkpoint; TensorBoard and the volume stay too.
#
#   scripts/clean.sh RUN [options]
#
#   RUN              the name of the run
#   --namespace NS   where the run is (default: that of the kubectl context)
set -euo pipefail
# shellcheck source=scripts/lib/cluster.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/cluster.sh"

run=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --namespace) value "$1" $#; check_namespace "$2"; shift 2 ;;
    -*) die 2 "no such option: $1; clean.sh --help shows what there is" ;;
    *) [ -z "$run" ] || die 2 "one run, not also '$1'"; run=$1; shift ;;
  esac
done
[ -n "$run" ] || die 2 "a run is needed: scripts/clean.sh RUN"
check_name "$run"
need_kubectl
need_cluster
kinds=jobs,configmaps,services,serviceaccounts,networkpolicies
found=$(in_namespace get "$kinds" --selector "$run_label=$run" -o name)
[ -n "$found" ] || die 1 "no run '$run' in this namespace; kubectl get jobs -l app.kubernetes.io/name=number-recognition lists them"
# In the foreground: when this returns, the pods are gone and the name can be used again.
in_namespace delete "$kinds" --selector "$run_label=$run" --cascade=foreground
echo "Removed run '$run'; its files stay on the volume"
