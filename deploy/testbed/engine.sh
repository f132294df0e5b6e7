#!/usr/bin/env bash
# The test bed's own Docker engine: install | up [--live-restore] | down [--keep] | status
#
# Its home is build/testbed/engine, or $JOBD_BED_ENGINE; its socket is docker.sock there. It runs in a network namespace
# of its own, so that neither the machine's bridges and firewall nor another engine on it notice.
# down ends its containers too; with --keep they live on (if it was started with --live-restore) until the next up.
set -euo pipefail
# shellcheck source=deploy/testbed/common.sh
source "$(dirname "$0")/common.sh"

install() {
  local log=$BUILD/testbed/apt.log
  if [ "$(type -P dockerd iptables ip openssl | wc -l)" = 4 ]; then return; fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    die "Docker is missing: apt-get install ${PACKAGES[*]}"
  fi
  echo "installing ${PACKAGES[*]} ..."
  mkdir -p "$(dirname "$log")"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${PACKAGES[@]}"; } \
    > "$log" 2>&1 || { tail -n 5 "$log" >&2; die "apt-get failed"; }
}

up() {
  local options=()
  [ -z "${1:-${JOBD_BED_LIVE_RESTORE:-}}" ] || options=(--live-restore)
  need_root
  command -v dockerd > /dev/null || die "Docker is missing: $0 install"
  prepare_home "$ENGINE"
  locked "$ENGINE/lock"
  if running "$ENGINE"; then
    [ ${#options[@]} = 0 ] || [ "$(of "$ENGINE" info --format '{{.LiveRestoreEnabled}}')" = true ] ||
      die "the engine is up without --live-restore: $0 down, first"
    return
  fi
  mount_cgroups
  # shellcheck disable=SC2016 # the inner shell's
  start "$ENGINE" unshare --net sh -c 'ip link set lo up && exec "$@"' sh -- "${options[@]}"
}

down() {
  [ -d "$ENGINE" ] || return 0
  need_root
  # Only an engine can end what a killed one has left.
  if ! running "$ENGINE" && abandoned "$ENGINE"; then up; fi
  running "$ENGINE" || return 0
  locked "$ENGINE/lock"
  [ "${1:-}" = --keep ] || end_containers "$ENGINE"
  stop "$ENGINE"
  # An engine that was killed has forgotten the parents of containers that died with it, and they stay for ever.
  [ "${1:-}" = --keep ] || pkill -f "^[^ ]*containerd-shim[^ ]* .*-address $ENGINE/" || true
}

status() {
  if ! running "$ENGINE"; then
    echo "down: $ENGINE"
    return 1
  fi
  of "$ENGINE" info --format "up: $ENGINE/docker.sock, pid $(cat "$ENGINE/pid"), Docker {{.ServerVersion}}, \
{{.ContainersRunning}} containers run, {{.Images}} images"
}

case "${1:-} ${2:-}" in
  "install ") install ;;
  "up " | "up --live-restore") up "${2:-}" ;;
  "down " | "down --keep") down "${2:-}" ;;
  "status ") status ;;
  *) die "usage: $0 install | up [--live-restore] | down [--keep] | status" ;;
esac
