# What the scripts of the test bed share; they source it. An engine has a home directory: docker.sock, pid, log, data/,
# exec/. No word of it depends on, or changes, an engine that the machine may have otherwise.
# shellcheck shell=bash disable=SC2034 # what is not used here is used by those who source it

PATH=$PATH:/usr/sbin:/sbin # not everybody who asks for the status has them
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=$CHECKOUT/build
ENGINE=${JOBD_BED_ENGINE:-$BUILD/testbed/engine}
PACKAGES=(docker.io iptables iproute2 openssl ca-certificates)
UNIX_PATH_BYTES_MAX=107
LONGEST_SOCKET=exec/containerd/containerd.sock.ttrpc

# The client would take an engine from these, and not the one it is told.
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "an engine needs root: sudo make testbed, then run the tests as root"
}

# of HOME WORDS...: the docker client of the engine with this home.
of() {
  local home=$1
  shift
  docker -H "unix://$home/docker.sock" "$@"
}

# locked FILE: until the script ends nobody else has it. Engines and builds are made by one at a time.
locked() {
  exec 9> "$1"
  flock -w 600 9 || die "somebody else has been at work for ten minutes: $1"
}

prepare_home() {
  mkdir -p "$1"
  [ $((${#1} + 1 + ${#LONGEST_SOCKET})) -le $UNIX_PATH_BYTES_MAX ] ||
    die "$1 is too long for the unix sockets in it: set JOBD_BED_ENGINE to a shorter directory"
}

running() {
  local pid
  pid=$(cat "$1/pid" 2> /dev/null) || return 1
  # After a crash or a reboot the pid may be somebody else's; and a zombie has no command line.
  grep -qsaF -- "--pidfile=$1/pid" "/proc/$pid/cmdline"
}

# What a killed engine left: the parents of its containers. The brackets keep grep from finding itself.
abandoned() {
  grep -lsa -- "$1/exec/containerd/[c]ontainerd.sock" /proc/[0-9]*/cmdline > /dev/null
}

# start HOME WRAPPER... -- OPTIONS...: dockerd, below WRAPPER, and waits until it answers.
start() {
  local home=$1 wrapper=() dockerd
  shift
  while [ "$1" != -- ]; do
    wrapper+=("$1")
    shift
  done
  shift
  # Not the machine's own configuration.
  echo '{}' > "$home/daemon.json"
  setsid "${wrapper[@]}" dockerd --config-file="$home/daemon.json" --data-root="$home/data" \
    --exec-root="$home/exec" --pidfile="$home/pid" --host="unix://$home/docker.sock" "$@" \
    >> "$home/log" 2>&1 < /dev/null 9>&- &
  dockerd=$!
  for _ in {1..300}; do
    of "$home" version > /dev/null 2>&1 && return
    kill -0 $dockerd 2> /dev/null || break
    sleep 0.1
  done
  tail -n 5 "$home/log" >&2
  kill $dockerd 2> /dev/null || true
  die "the engine does not answer; its log: $home/log"
}

# stop HOME: by its own pid file; the file goes when the engine has gone.
stop() {
  running "$1" || return 0
  kill "$(cat "$1/pid")"
  for _ in {1..300}; do
    running "$1" || return 0
    sleep 0.1
  done
  die "the engine of $1 has not ended within 30 s of SIGTERM"
}

# end_containers HOME: at once, where the engine would ask each first and wait for ten seconds.
end_containers() {
  local ids
  ids=$(of "$1" ps --quiet)
  # One that ends by itself in between is no fault.
  [ -z "$ids" ] || xargs docker -H "unix://$1/docker.sock" kill <<< "$ids" > /dev/null 2>&1 || true
}

# Without systemd nobody may have mounted them; what is there stays as it is.
mount_cgroups() {
  local root=/sys/fs/cgroup controller
  if mountpoint -q $root; then return; fi
  mount -t tmpfs -o mode=755 cgroup $root
  awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups | while read -r controller; do
    mkdir "$root/$controller"
    # One that the machine has in a cgroup2 hierarchy cannot be had here.
    mount -t cgroup -o "$controller" cgroup "$root/$controller" 2> /dev/null || rmdir "$root/$controller"
  done
  mkdir $root/systemd # runc looks for this one
  mount -t cgroup -o none,name=systemd cgroup $root/systemd
}
