#!/usr/bin/env bash
# Submits a training run to a Kubernetes cluster.
#
#   scripts/submit.sh [OVERLAY] [options] [-- flags of trainer.task]
#
#   OVERLAY          a directory of k8s/overlays: cpu (default), gpu, multi-gpu, multi-worker, or your own
#   --name RUN       what the run is called (default: OVERLAY-DATE-TIME); its directory on the volume has this name,
#                    so that a run submitted again after scripts/clean.sh goes on where it was
#   --image IMAGE    the image to run (default: the overlay's)
#   --namespace NS   where (default: that of the kubectl context)
#   --workers N      how many workers of an overlay for several
#   --dry-run        print the manifests, send nothing
#   --follow         show the chief's log through all restarts, then leave with the result: 0 when the run finished,
#                    else the exit code it failed with (1 if it left none). Ctrl-C ends the following, not the run.
#
# Example:  scripts/submit.sh gpu --image registry.example/number-recognition:gpu --follow -- --model=cnn --epochs=5
set -euo pipefail
# shellcheck source=scripts/lib/cluster.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/cluster.sh"

poll_s=${SUBMIT_POLL_S:-2} # between two looks at the cluster

main() {
  local overlay='' run='' image='' workers='' dry_run='' follow=''
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --name) value "$1" $#; run=$2; check_name "$run"; shift 2 ;;
      --image) value "$1" $#; image=$2; shift 2 ;;
      --namespace) value "$1" $#; check_namespace "$2"; shift 2 ;;
      --workers) value "$1" $#; workers=$2; shift 2 ;;
      --dry-run) dry_run=yes; shift ;;
      --follow) follow=yes; shift ;;
      --) shift; break ;;
      -*) die 2 "no such option: $1 (flags of the trainer come after --)" ;;
      *) [ -z "$overlay" ] || die 2 "one overlay, not '$overlay' and '$1' (flags of the trainer come after --)"
         overlay=$1; shift ;;
    esac
  done
  overlay=${overlay:-cpu}
  case $overlay in
    */* | .*) overlay_unknown "$overlay" ;;
    *) [ -f "$root/k8s/overlays/$overlay/kustomization.yaml" ] || overlay_unknown "$overlay" ;;
  esac
  [ -n "$run" ] || run=$overlay-$(date -u +%Y%m%d-%H%M%S)
  check_name "$run"
  case $workers in
    *[!0-9]* | 0*) die 2 "--workers '$workers' is not a number of workers" ;;
  esac
  [ ${#workers} -le 3 ] || die 2 "--workers $workers: at most 999"
  need_kubectl
  make_scratch

  mkdir "$scratch/run" "$scratch/shared" "$scratch/all"
  flagfile "$run" "$@" >"$scratch/run/run.flags"
  cp "$root/k8s/name-references.yaml" "$scratch/run/"
  kustomization_of_run "$overlay" "$run" "$workers" >"$scratch/run/kustomization.yaml"
  kustomization_of_shared "$overlay" >"$scratch/shared/kustomization.yaml"
  kustomization_of_all "$run" "$image" >"$scratch/all/kustomization.yaml"
  if [ -n "$workers" ]; then
    case $(render "k8s/overlays/$overlay") in
      *'completionMode: Indexed'*) ;;
      *) die 2 "--workers is for an overlay with several workers (multi-worker), not for $overlay" ;;
    esac
  fi

  render all >"$scratch/manifests.yaml"
  check_batch "$scratch/manifests.yaml"
  if [ -n "$dry_run" ]; then
    cat "$scratch/manifests.yaml"
    return
  fi
  need_cluster
  if in_namespace get job "$run" >/dev/null 2>&1; then
    die 2 "run '$run' exists already; choose another --name, or scripts/clean.sh $run and submit it again to go on"
  fi
  keep_claim
  render all >"$scratch/manifests.yaml"
  in_namespace apply -f "$scratch/manifests.yaml"
  echo "Submitted run '$run'. See it: scripts/monitor.sh. When it has finished: scripts/collect.sh $run DIR"
  [ -z "$follow" ] || follow "$run"
}

overlay_unknown() { # OVERLAY
  local known
  known=$(cd "$root/k8s/overlays" && echo *)
  die 2 "no overlay '$1' in k8s/overlays; there are: $known"
}

# absl reads one argument a line, verbatim: no quoting exists, and none is needed but for what starts a comment.
flagfile() { # RUN FLAGS
  local flag
  printf -- '--model_dir=/outputs/%s\n' "$1"
  shift
  while [ $# -gt 0 ]; do
    flag=$1
    shift
    case $flag in
      --*=*) ;;
      # `--epochs 5` is written as `--epochs=5`.
      --?*) if [ $# -gt 0 ]; then case $1 in -*) ;; *) flag="$flag=$1"; shift ;; esac; fi ;;
      -?*) ;;
      *) die 2 "'$flag' after -- is no flag of the trainer" ;;
    esac
    case $flag in
      --model_dir* | -model_dir*) die 2 "$flag: the run's name decides its directory; use --name" ;;
      --flagfile* | -flagfile*) die 2 "$flag: the file is not on the cluster; give its flags here" ;;
      *$'\n'*) flag=${flag%%$'\n'*}; die 2 "$flag...: a flag cannot hold a line break" ;;
      *[[:space:]]) die 2 "$flag: a flag file drops the space at the end" ;;
    esac
    printf '%s\n' "$flag"
  done
}

# A run is its overlay twice: once without what all runs share, named after the run; once with only that, as it is.
kustomization_of_run() { # OVERLAY RUN WORKERS
  cat <<EOF
resources: [../k8s/overlays/$1]
namePrefix: $2-
configurations: [name-references.yaml]
configMapGenerator:
- name: flags
  behavior: merge
  files: [run.flags]
  options: {disableNameSuffixHash: true}
labels:
- pairs: {app.kubernetes.io/instance: $2}
  includeSelectors: true
  fields:
  - kind: Job
    path: spec/template/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels
patches:
$(without "in (storage,tensorboard)")
EOF
  [ -z "$3" ] || cat <<EOF
- target: {kind: Job}
  patch: |
    kind: Job
    apiVersion: batch/v1
    metadata: {name: any}
    spec:
      completions: $3
      parallelism: $3
      template:
        spec:
          containers:
          - name: trainer
            env:
            - {name: WORKER_COUNT, value: "$3"}
EOF
}

kustomization_of_shared() { # OVERLAY
  cat <<EOF
resources: [../k8s/overlays/$1]
patches:
$(without "notin (storage,tensorboard)")
EOF
}

without() { # WHICH-COMPONENTS
  cat <<EOF
- target: {labelSelector: "app.kubernetes.io/component $1"}
  patch: |
    \$patch: delete
    kind: Any
    metadata: {name: any}
EOF
}

# The Job alone is called what the run is called: it is the one that people ask kubectl for.
kustomization_of_all() { # RUN IMAGE
  [ ${#namespace[@]} -eq 0 ] || echo "namespace: ${namespace[1]}"
  [ -z "$2" ] || image_entry "$2"
  cat <<EOF
resources: [../run, ../shared]
patches:
- target: {kind: Job}
  options: {allowNameChange: true}
  patch: |
    - {op: replace, path: /metadata/name, value: $1}
EOF
}

# Several workers share a batch evenly; the trainer refuses one that does not divide, but only after the pods have come.
check_batch() { # MANIFESTS
  local workers batch near
  workers=$(sed -n '/name: WORKER_COUNT/{n;s/^ *value: "\([0-9]*\)"$/\1/p;}' "$1")
  # In the order that the trainer reads them: the last one counts.
  batch=$(sed -n 's/^ *--*batch_size=\([1-9][0-9]*\)$/\1/p' "$1" | tail -n 1)
  if [ -n "$workers" ] && [ -n "$batch" ] && [ $((batch % workers)) -ne 0 ]; then
    near=$(((batch + workers / 2) / workers * workers))
    [ $near -gt 0 ] || near=$workers
    die 2 "--batch_size=$batch is not divisible by $workers workers; give one that does after --, for example --batch_size=$near"
  fi
}

render() { # DIRECTORY
  kubectl kustomize "$scratch/$1"
}

# A claim cannot be changed once it is there, and another overlay or its owner may have made it differently.
keep_claim() {
  local modes
  modes=$(in_namespace get persistentvolumeclaim "$claim" -o 'jsonpath={.spec.accessModes[*]}' 2>/dev/null) || return 0
  case $(render all) in
    *ReadWriteMany*)
      case $modes in
        *ReadWriteMany*) ;;
        *) echo "warning: the volume claim '$claim' is $modes, not ReadWriteMany: all workers must fit on one node" >&2 ;;
      esac ;;
  esac
  cat >>"$scratch/all/kustomization.yaml" <<EOF
- target: {kind: PersistentVolumeClaim, name: $claim}
  patch: |
    \$patch: delete
    kind: PersistentVolumeClaim
    apiVersion: v1
    metadata: {name: $claim}
EOF
}

# Shows the log of one of the chief's pods after the other until the Job has ended, and leaves with its result.
follow() { # RUN
  local run=$1 pods pod phase note said='' shown=' ' since='' state lost=0 code=0
  local chief="batch.kubernetes.io/job-name=$run"
  trap 'echo "Run $run goes on; kubectl logs --follow job/$run shows it again" >&2; exit 130' INT
  if [ "$(in_namespace get job "$run" -o 'jsonpath={.spec.completionMode}')" = Indexed ]; then
    chief="$chief,batch.kubernetes.io/job-completion-index=0"
  fi
  while :; do
    # The state is read before the pods: what ended the Job is then among them.
    if state=$(job_state "$run") && pods=$(chief_pods "$chief"); then
      lost=0
    else
      lost=$((lost + 1))
      [ $lost -lt 10 ] || die 1 "run '$run' can no longer be seen (deleted, or no cluster); the lines above say why"
      sleep "$poll_s"
      continue
    fi
    while read -r pod phase note; do
      case $shown in *" $pod "*) continue ;; esac
      case $phase in
        Running | Succeeded | Failed)
          in_namespace logs --follow --container trainer ${since:+--since-time="$since"} "$pod" || true
          since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
          # A log that ended while its pod runs on was cut off: the next round takes it up there.
          case $(in_namespace get "$pod" -o 'jsonpath={.status.phase}' 2>/dev/null) in
            Running) break ;;
          esac
          shown="$shown$pod " since=''
          code=$(exit_code "$pod")
          [ "$code" = 0 ] || echo "$pod ended with ${code:-no exit code}" >&2 ;;
        '') ;;
        *)
          [ "$said" = "$pod $note" ] || echo "$pod waits${note:+: $note}" >&2
          said="$pod $note" ;;
      esac
    done <<EOF
$pods
EOF
    case $state in
      *Complete=*)
        echo "Run '$run' finished; scripts/collect.sh $run DIR copies it"
        return 0 ;;
      *Failed=*)
        state=${state##*Failed=} state=${state%%$'\n'*}
        echo "error: run '$run' failed: $state" >&2
        # The message of podFailurePolicy names the exit code, which may be that of another worker than the chief.
        case $state in *'exit code '*) code=${state##*exit code } code=${code%%[!0-9]*} ;; esac
        [ "${code:-0}" != 0 ] || code=1
        exit "$code" ;;
      *Suspended=*)
        [ "$said" = suspended ] || echo "run '$run' is suspended: it waits in its queue" >&2
        said=suspended ;;
    esac
    sleep "$poll_s"
  done
}

job_state() { # RUN
  in_namespace get job "$1" -o \
    'jsonpath={range .status.conditions[?(@.status=="True")]}{.type}={.reason}: {.message}{"\n"}{end}'
}

# Oldest first: name, phase and, while it waits, why.
chief_pods() { # SELECTOR
  in_namespace get pods --selector "$1" --sort-by=.metadata.creationTimestamp -o \
    'jsonpath={range .items[*]}pod/{.metadata.name} {.status.phase} {.status.containerStatuses[*].state.waiting.reason} {.status.conditions[?(@.reason=="Unschedulable")].message}{"\n"}{end}'
}

exit_code() { # POD
  in_namespace get "$1" -o \
    'jsonpath={.status.containerStatuses[?(@.name=="trainer")].state.terminated.exitCode}' 2>/dev/null || true
}

main "$@"
