#!/usr/bin/env bash
# The images of our codes, jobd-NAME:bed: build [NAME...] | load SOCKET [NAME...]
#
# build: into the engine of engine.sh, which has to be up. What is unchanged is not built again: the hash of an image's
# inputs is its label, and the stamp of the archive in build/testbed/images/ from which another engine can load it.
# load: from those archives into the engine of another socket, host.sh's for example.
set -euo pipefail
# shellcheck source=deploy/testbed/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=deploy/testbed/trees.sh
source "$(dirname "$0")/trees.sh"

NAMES=(base lammps heat shell)
ARCHIVES=$BUILD/testbed/images
TREES=$BUILD/testbed/trees
LABEL=jobd.inputs

# The hash of all that an image is made from; each contains that of the base.
inputs() {
  {
    "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
    sha256sum "${BASH_SOURCE[0]}" "$(dirname "$0")/trees.sh"
    tools_of "$1" | xargs sha256sum
    ldd /bin/dash | awk '$2 == "=>" { print $3 }' | xargs sha256sum # glibc
    case $1 in
      lammps) sha256sum "$CHECKOUT/constraints.txt" "$CHECKOUT"/deploy/codes/lammps/*.py ;;
      heat) sha256sum "$BUILD"/codes/heat/{heat,heat-worker} ;;
      shell) sha256sum "$CHECKOUT/tests/real/codes/worker.py" ;;
    esac
    [ "$1" = base ] || sha256sum "$CHECKOUT/deploy/images/$1/Dockerfile"
  } | sed "s|$CHECKOUT/||" | sha256sum | cut -d ' ' -f 1
}

tools_of() {
  type -P dash "${TOOLS[@]}"
  [ "$1" != shell ] || type -P "${SHELL_TOOLS[@]}"
}

# has SOCKET NAME HASH: whether that engine has this very image.
has() {
  [ "$(docker -H "unix://$1" image inspect --format "{{index .Config.Labels \"$LABEL\"}}" "jobd-$2:bed" 2> /dev/null)" \
    = "$3" ]
}

archived() {
  [ -s "$ARCHIVES/$1.tar" ] && [ "$(cat "$ARCHIVES/$1.stamp" 2> /dev/null)" = "$2" ]
}

build() {
  local name=$1 hash
  hash=$(inputs "$name")
  if ! has "$ENGINE/docker.sock" "$name" "$hash"; then
    if archived "$name" "$hash"; then
      of "$ENGINE" load --quiet --input "$ARCHIVES/$name.tar" > /dev/null
      echo "jobd-$name:bed loaded in $SECONDS s"
    else
      make_image "$name" "$hash"
      echo "jobd-$name:bed built in $SECONDS s"
    fi
  fi
  if ! archived "$name" "$hash"; then
    rm -f "$ARCHIVES/$name.stamp" # until it is whole
    of "$ENGINE" save --output "$ARCHIVES/$name.tar" "jobd-$name:bed"
    echo "$hash" > "$ARCHIVES/$name.stamp"
  fi
}

make_image() {
  local name=$1 hash=$2 tree=$TREES/$1
  [ "$name" = base ] || [ -d "$TREES/base" ] || make_tree base
  make_tree "$name"
  if [ "$name" = base ]; then
    tar -C "$tree" --numeric-owner --owner=0 --group=0 -c . |
      of "$ENGINE" import --change 'ENV PATH=/opt/jobd/bin:/usr/bin:/bin' --change "LABEL $LABEL=$hash" \
        --change 'WORKDIR /work' - jobd-base:bed > "$TREES/$name.log"
  else
    # The engine's own builder: BuildKit is a plug-in that Debian does not have.
    DOCKER_BUILDKIT=0 of "$ENGINE" build --network none --build-arg BASE=jobd-base:bed --label "$LABEL=$hash" \
      --tag "jobd-$name:bed" --file "$CHECKOUT/deploy/images/$name/Dockerfile" "$tree" > "$TREES/$name.log" 2>&1 ||
      { tail -n 5 "$TREES/$name.log" >&2; die "jobd-$name:bed could not be built"; }
  fi
  # The base stays: what the others need of the libraries is what it has not.
  [ "$name" = base ] || rm -r "$tree"
}

make_tree() {
  rm -rf "${TREES:?}/$1"
  mkdir -p "$TREES/$1"
  "tree_$1" "$TREES/$1" "$TREES/base"
  chmod -R a+rX "$TREES/$1" # whatever our umask is, a user's uid reads it
}

load() {
  local socket=$1 name=$2 hash
  hash=$(cat "$ARCHIVES/$name.stamp" 2> /dev/null) || die "jobd-$name:bed has not been built: $0 build"
  has "$socket" "$name" "$hash" || docker -H "unix://$socket" load --quiet --input "$ARCHIVES/$name.tar" > /dev/null
}

names() {
  local name
  for name; do [[ " ${NAMES[*]} " = *" $name "* ]] || die "there is no image $name, only: ${NAMES[*]}"; done
  [ $# -gt 0 ] || set -- "${NAMES[@]}"
  echo "$@"
}

action=${1:-}
[ "$action" = build ] || { [ "$action" = load ] && [ -S "${2:-}" ]; } ||
  die "usage: $0 build [NAME...] | load SOCKET [NAME...]"
mkdir -p "$ARCHIVES" "$TREES"
locked "$ARCHIVES/lock"
umask 022
if [ "$action" = build ]; then
  need_root
  running "$ENGINE" || die "the engine is down: $(dirname "$0")/engine.sh up"
  if [ ! -x "$PYTHON" ] || [ ! -x "$BUILD/codes/heat/heat" ]; then die "nothing to build them from: make codes"; fi
  shift
  for name in base $(names "$@"); do SECONDS=0 && build "$name"; done
else
  socket=$2
  shift 2
  for name in $(names "$@"); do load "$socket" "$name"; done
fi
