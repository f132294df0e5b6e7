#!/usr/bin/env bash
# A second host: up NAME INDEX [HIDDEN_DIR...] | partition NAME | heal NAME | down NAME
#
# An engine in network and mount namespaces of its own, at tcp://198.18.INDEX.2:2376, where we are 198.18.INDEX.1. It
# takes only clients with a certificate that `up` made: tls/client/{ca,cert,key}.pem in its home. The hidden directories
# are empty there, so that nothing of ours that lies in them can be mounted into its containers, as on a host elsewhere.
# Its home, /var/tmp/jobd-bed/NAME or below $JOBD_BED_HOSTS, must not be in one of them; its docker.sock is for
# images.sh. `up` repeats what is missing, after a crash of the engine for example; `down` leaves nothing.
set -euo pipefail
# shellcheck source=deploy/testbed/common.sh
source "$(dirname "$0")/common.sh"

HOSTS=${JOBD_BED_HOSTS:-/var/tmp/jobd-bed}
NAME=${2:-}
HOME_OF=$HOSTS/$NAME
NETNS=jobd-$NAME

up() {
  local index=${1:-} directory hidden=()
  [[ $index =~ ^([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9])$ ]] || die "INDEX is 1 to 249, not '$index'"
  for directory in "${@:2}"; do
    [ -d "$directory" ] || die "there is no directory $directory to hide"
    directory=$(realpath "$directory")
    [[ $HOME_OF/ != "$directory"/* ]] || die "$directory contains the host's home, $HOME_OF: set JOBD_BED_HOSTS"
    hidden+=("$directory")
  done
  set -- "$index" "${hidden[@]}"
  if running "$HOME_OF"; then
    [ "$(cat "$HOME_OF/asked")" = "$*" ] || die "$NAME is up with others: $(cat "$HOME_OF/asked")"
    return
  fi
  if [ -e "$HOME_OF/asked" ] && [ "$(cut -d ' ' -f 1 "$HOME_OF/asked")" != "$index" ]; then down; fi
  prepare_home "$HOME_OF"
  echo "$*" > "$HOME_OF/asked"
  mount_cgroups
  connect "$index"
  make_certificates "$index"
  mkdir -p /etc/docker # hidden too: the engine's id is kept there, and every host has its own
  # nsenter and not `ip netns exec`, which mounts a new /sys where no cgroups are.
  # shellcheck disable=SC2016 # the inner shell's
  start "$HOME_OF" nsenter --net="/run/netns/$NETNS" unshare --mount --propagation private sh -euc '
    while [ "${1#/}" != "$1" ]; do # the directories have whole paths, the command has none
      mkdir -p "$1" # one that lies in one hidden before
      mount -t tmpfs -o mode=755 hidden "$1"
      shift
    done
    cd /
    exec "$@"' sh /etc/docker "${hidden[@]}" -- \
    --host="tcp://198.18.$index.2:2376" --tlsverify --tlscacert="$HOME_OF/tls/ca.pem" \
    --tlscert="$HOME_OF/tls/server.pem" --tlskey="$HOME_OF/tls/server-key.pem"
}

connect() {
  local net=198.18.$1
  if [ ! -e "/run/netns/$NETNS" ]; then
    if ip link show "jobd$1" > /dev/null 2>&1; then die "INDEX $1 is another host's"; fi
    ip netns add "$NETNS"
    ip link add "jobd$1" type veth peer name eth0 netns "$NETNS"
    ip addr add "$net.1/24" dev "jobd$1"
    ip link set "jobd$1" up
    ip -n "$NETNS" addr add "$net.2/24" dev eth0
    ip -n "$NETNS" link set eth0 up
    ip -n "$NETNS" link set lo up
  fi
  # Should the link go down its route goes too, and what is for the host would leave by the machine's default route.
  ip route replace blackhole "$net.0/24" metric 4096
}

make_certificates() {
  local tls=$HOME_OF/tls role
  rm -rf "$tls"
  mkdir -p "$tls/client"
  new_key "$tls/ca-key.pem" -x509 -days 30 -subj "/CN=test bed $NAME" -out "$tls/ca.pem"
  printf 'subjectAltName = IP:198.18.%s.2\nextendedKeyUsage = serverAuth\n' "$1" > "$tls/server.ext"
  echo 'extendedKeyUsage = clientAuth' > "$tls/client.ext"
  for role in server client; do
    new_key "$tls/$role-key.pem" -subj "/CN=$role" -out "$tls/$role.csr"
    openssl x509 -req -in "$tls/$role.csr" -days 30 -CA "$tls/ca.pem" -CAkey "$tls/ca-key.pem" -CAcreateserial \
      -extfile "$tls/$role.ext" -out "$tls/$role.pem" 2> /dev/null
  done
  # The names that docker clients look for.
  cp "$tls/ca.pem" "$tls/client/ca.pem"
  cp "$tls/client.pem" "$tls/client/cert.pem"
  cp "$tls/client-key.pem" "$tls/client/key.pem"
}

new_key() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1" "${@:2}" 2> /dev/null
}

# wall ADD_OR_DELETE: rules within the host's namespace: they go with it, and the machine's own firewall is not touched.
# raw and mangle see what its containers send and get, too.
wall() {
  [ -e "/run/netns/$NETNS" ] || die "there is no host $NAME"
  rule "$1" raw PREROUTING -i
  rule "$1" mangle POSTROUTING -o
}

rule() {
  local words=("$3" "$4" eth0 -j DROP) there=no
  in_host iptables --wait -t "$2" -C "${words[@]}" 2> /dev/null && there=yes
  case $1$there in
    addno) in_host iptables --wait -t "$2" -I "${words[@]}" ;;
    deleteyes) in_host iptables --wait -t "$2" -D "${words[@]}" ;;
  esac
}

in_host() {
  nsenter --net="/run/netns/$NETNS" "$@"
}

down() {
  local index
  [ -e "$HOME_OF/asked" ] || return 0
  index=$(cut -d ' ' -f 1 "$HOME_OF/asked")
  # Only an engine can end what a killed one has left.
  # shellcheck disable=SC2046 # the words that it was started with
  if ! running "$HOME_OF" && abandoned "$HOME_OF"; then up $(cat "$HOME_OF/asked"); fi
  if running "$HOME_OF"; then
    end_containers "$HOME_OF"
    stop "$HOME_OF"
  fi
  ip netns del "$NETNS" 2> /dev/null || true
  ip link del "jobd$index" 2> /dev/null || true # the namespace's end takes it along, a moment later
  ip route del blackhole "198.18.$index.0/24" 2> /dev/null || true
  rm -rf "$HOME_OF"
  rmdir "$HOSTS" 2> /dev/null || true # the last one
}

[[ $NAME =~ ^[a-z][a-z0-9]{0,15}$ ]] ||
  die "usage: $0 up NAME INDEX [HIDDEN_DIR...] | partition NAME | heal NAME | down NAME"
need_root
mkdir -p "$BUILD/testbed"
locked "$BUILD/testbed/host-$NAME.lock"
case $1 in
  up) up "${@:3}" ;;
  partition) wall add ;;
  heal) wall delete ;;
  down) down ;;
  *) die "no such action: $1" ;;
esac
