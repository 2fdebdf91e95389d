#!/usr/bin/env bash
# The real programs that the tests talk to. Installed from Debian where they are missing; a test never skips for want of one.
set -euo pipefail
missing=()
need() { # program, package
  command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$2")
}
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need node nodejs
need npm npm
need openssl openssl
need faketime faketime
need containerd containerd
need crun crun
need iptables iptables
need nft nftables
need conntrack conntrack
need bwrap bubblewrap
need busybox busybox-static
need ip iproute2
need systemd-nspawn systemd-container
[ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && exit 0
echo "parts: installing ${missing[*]}"
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "parts: the tests need ${missing[*]}: run 'sudo apt-get install ${missing[*]}', then the same command again" >&2
  exit 1
fi
# The tests start their own servers on free ports: Debian must not start its own.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d.skerry && chmod +x /usr/sbin/policy-rc.d.skerry
had_policy=0; [ -e /usr/sbin/policy-rc.d ] && had_policy=1
[ "$had_policy" = 1 ] || mv /usr/sbin/policy-rc.d.skerry /usr/sbin/policy-rc.d
cleanup() { [ "$had_policy" = 1 ] || rm -f /usr/sbin/policy-rc.d; rm -f /usr/sbin/policy-rc.d.skerry; }
trap cleanup EXIT
log="$(mktemp)"
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
  || { cat "$log" >&2; exit 1; }
rm -f "$log"
