# shellcheck shell=bash
# What submit.sh, monitor.sh, collect.sh and clean.sh have in common: checks, names and how they fail.
# Written for bash 3.2, which is what macOS has. Exit codes: 2 what was asked for cannot be, 1 it did not work.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)

# As in k8s/base.
claim=number-recognition
tensorboard=number-recognition-tensorboard
run_label=app.kubernetes.io/name=number-recognition,app.kubernetes.io/instance

# kubectl's own words for the namespace, empty where its context decides.
namespace=()

die() { # CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

# Prints the comment that a script opens with: its help is what its reader sees.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# The value of an option, checked to be there: `--name` at the end of the line has none.
value() { # OPTION NUMBER-OF-ARGUMENTS-LEFT
  [ "$2" -ge 2 ] || die 2 "$1 needs a value; ${0##*/} --help shows how"
}

need_kubectl() {
  command -v kubectl >/dev/null ||
    die 2 "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"
}

need_cluster() {
  local why
  if ! why=$(kubectl version --request-timeout=10s 2>&1 >/dev/null); then
    why=${why##*$'\n'} # the last line: kubectl repeats itself
    die 1 "no cluster answers (kubectl config current-context names the one asked): $why"
  fi
}

in_namespace() { # KUBECTL ARGUMENTS
  kubectl ${namespace[@]+"${namespace[@]}"} "$@"
}

# A run's name is the name of its Job, of its directory and the start of a Service's and a pod's host name.
check_name() { # RUN
  local longest=50 # leaves room in a host name's 63 characters for what is added
  case $1 in
    *[!a-z0-9-]* | [!a-z]* | *- | '')
      die 2 "run name '$1' must be lower-case letters, digits and '-', start with a letter and not end with '-'" ;;
  esac
  [ ${#1} -le $longest ] || die 2 "run name '$1' is ${#1} characters long; at most $longest fit into host names"
}

check_namespace() { # NAMESPACE
  case $1 in
    *[!a-z0-9-]* | -* | *- | '')
      die 2 "namespace '$1' must be lower-case letters, digits and '-', and start and end with a letter or digit" ;;
  esac
  [ ${#1} -le 63 ] || die 2 "namespace '$1' is longer than 63 characters"
  namespace=(--namespace "$1")
}

# Prints how kustomize takes an image apart: the registry's port is no tag, and a digest may follow a tag.
image_entry() { # IMAGE
  local name=$1 tag='' digest=''
  case $1 in
    *[!A-Za-z0-9./:@_-]* | '' | [./:@_-]* | *[./:@_-]) die 2 "image '$1' is not a name that a registry knows" ;;
  esac
  case $name in *@*) digest=${name#*@} name=${name%%@*} ;; esac
  case ${name##*/} in *:*) tag=${name##*:} name=${name%:*} ;; esac
  printf 'images:\n- name: number-recognition\n  newName: %s\n' "$name"
  if [ -n "$digest" ]; then
    printf '  digest: "%s"\n' "$digest"
  else
    printf '  newTag: "%s"\n' "${tag:-latest}"
  fi
}

# Makes a directory that goes with the script, with the manifests in it: a kustomization refers to others by relative
# paths only, and the repository may be read-only.
make_scratch() {
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/number-recognition.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  cp -R "$root/k8s" "$scratch/k8s"
}
