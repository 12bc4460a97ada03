#!/usr/bin/env bash
# Copies a finished run from the cluster's volume into a new directory, through a pod that lives as long as the copy.
#
#   scripts/collect.sh RUN DIR [options]
#
#   RUN              the name of the run
#   DIR              the directory to make; it appears when everything has been copied
#   --namespace NS   where the run is (default: that of the kubectl context)
set -euo pipefail
# shellcheck source=scripts/lib/cluster.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/cluster.sh"

run='' directory=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --namespace) value "$1" $#; check_namespace "$2"; shift 2 ;;
    -*) die 2 "no such option: $1; collect.sh --help shows what there is" ;;
    *)
      if [ -z "$run" ]; then run=$1
      elif [ -z "$directory" ]; then directory=$1
      else die 2 "one run and one directory, not also '$1'"; fi
      shift ;;
  esac
done
if [ -z "$run" ] || [ -z "$directory" ]; then
  die 2 "a run and a directory are needed: scripts/collect.sh RUN DIR"
fi
check_name "$run"
[ ! -e "$directory" ] || die 2 "$directory exists already; name a directory that does not"
need_kubectl
need_cluster
# TensorBoard is where the volume is, and runs the image that is known to be there.
image=$(in_namespace get deployment "$tensorboard" -o 'jsonpath={.spec.template.spec.containers[0].image}' 2>/dev/null) ||
  die 1 "no run '$run': nothing was ever submitted to this namespace; --namespace names another"

make_scratch
pod=collector-$run-$$
partial=${directory%/}.partial-$$
mkdir "$scratch/pod"
{
  echo 'resources: [../k8s/collector]'
  echo "nameSuffix: -$run-$$"
  image_entry "$image"
} >"$scratch/pod/kustomization.yaml"
kubectl kustomize "$scratch/pod" >"$scratch/pod.yaml"
trap 'in_namespace delete pod "$pod" --ignore-not-found --wait=false >/dev/null 2>&1 || true; rm -rf "$scratch" "$partial"' EXIT
in_namespace apply -f "$scratch/pod.yaml" >/dev/null
in_namespace wait --for=condition=Ready "pod/$pod" --timeout=180s >/dev/null ||
  die 1 "the pod that reads the volume does not start; kubectl describe pod -l app.kubernetes.io/component=tensorboard shows where the volume is"

in_pod() {
  in_namespace exec "$pod" -- "$@"
}
# Last of all a run writes metrics.json, with "finished": true.
if ! in_pod grep -q '"finished": *true' "/outputs/$run/metrics.json" 2>/dev/null; then
  if in_pod test -d "/outputs/$run"; then
    die 1 "run '$run' has not finished; scripts/submit.sh with --follow shows how far it is"
  fi
  die 1 "no run '$run' on the volume; there are: $(in_pod ls /outputs | tr '\n' ' ')"
fi
mkdir -p "$partial"
in_pod tar -C "/outputs/$run" -cf - . | tar -C "$partial" -xf -
# A stream that was cut between two files looks whole to tar, and kubectl may call that success.
if [ "$(in_pod find "/outputs/$run" | wc -l)" -ne "$(find "$partial" | wc -l)" ]; then
  die 1 "the copy of run '$run' broke off; try again"
fi
mv "$partial" "$directory"
echo "Copied run '$run' to $directory; its result is in $directory/metrics.json"
