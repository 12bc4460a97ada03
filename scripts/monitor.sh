#!/usr/bin/env bash
# Opens TensorBoard over all runs on the cluster's volume: forwards a local port to it until Ctrl-C.
#
#   scripts/monitor.sh [options]
#
#   --port PORT      the local port (default: 6006)
#   --namespace NS   where the runs are (default: that of the kubectl context)
set -euo pipefail
# shellcheck source=scripts/lib/cluster.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/cluster.sh"

port=6006
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --port) value "$1" $#; port=$2; shift 2 ;;
    --namespace) value "$1" $#; check_namespace "$2"; shift 2 ;;
    *) die 2 "no such argument: $1; monitor.sh --help shows what there is" ;;
  esac
done
case $port in
  *[!0-9]* | '' | 0*) die 2 "--port '$port' is not a port number" ;;
esac
if [ ${#port} -gt 5 ] || [ "$port" -gt 65535 ]; then
  die 2 "--port $port: at most 65535"
fi
need_kubectl
need_cluster
in_namespace get deployment "$tensorboard" >/dev/null 2>&1 ||
  die 1 "no TensorBoard in this namespace; the first scripts/submit.sh starts it, --namespace names another place"
in_namespace rollout status deployment "$tensorboard" --timeout=180s >&2 ||
  die 1 "TensorBoard does not start; kubectl describe pods -l app.kubernetes.io/component=tensorboard says why"

# The address is said once it answers.
in_namespace port-forward "service/$tensorboard" "$port:6006" | while read -r line; do
  case $line in
    'Forwarding from 127.0.0.1'*) echo "TensorBoard: http://localhost:$port/ (Ctrl-C ends it)" ;;
  esac
done
