#!/usr/bin/env bash
# make demo, then make test, in a new Debian 12 root that holds only Python 3.11, git and make.
# Uses this host's package-client configuration (apt, pip, npm, CA certificates); leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "test-fresh: run it as root (it makes a chroot)" >&2; exit 1; }
command -v debootstrap >/dev/null || { apt-get update -qq; apt-get install -y -qq debootstrap >/dev/null; }

root="$(mktemp -d "${TMPDIR:-/tmp}/skerry-fresh.XXXXXX")"
chmod 755 "$root"  # PostgreSQL and Mosquitto give up root, and must still find "/"
mounts=()
cleanup() {
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount -l -R "${mounts[i]}" 2>/dev/null || true; done
  if mount | grep -q "$root"; then echo "test-fresh: $root still holds a mount; not removed" >&2; else rm -rf "$root" "$root.log"; fi
}
trap cleanup EXIT INT TERM

mirror="$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null \
  | awk '/^deb /{for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}} /^URIs:/{print $2; exit}' || true)"
echo "test-fresh: building a Debian 12 root"
[ ! -d /etc/ssl/certs ] || export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
debootstrap --variant=minbase --include=python3,git,make,ca-certificates bookworm "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 \
  || { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"

copy() { # path: the same place inside
  [ -e "$1" ] || return 0
  mkdir -p "$root$(dirname "$1")"
  cp -aL "$1" "$root$(dirname "$1")/" 2>/dev/null || true
}
rm -f "$root/etc/apt/sources.list"  # the host's own list takes its place
for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/keyrings /usr/share/keyrings /etc/apt/trusted.gpg.d \
  /etc/apt/auth.conf.d /etc/pip.conf /etc/xdg/pip /etc/npmrc /usr/local/etc/npmrc "$HOME/.npmrc" "$HOME/.config/pip" "$HOME/.pip" /etc/ssl/certs \
  /usr/local/share/ca-certificates /etc/resolv.conf /etc/hosts; do copy "$path"; done

mount --bind "$root" "$root"
mounts+=("$root")
for kind in proc sys dev run/netns; do  # with what is mounted below them: containers need the cgroups
  mkdir -p "/$kind" "$root/$kind"
  mount --rbind "/$kind" "$root/$kind"
  mount --make-rslave "$root/$kind"
  mounts+=("$root/$kind")
done
git clone -q --no-hardlinks . "$root/skerry"
keep=$(env | grep -E '^(PIP_|NPM_|npm_|HTTPS?_PROXY|https?_proxy|NO_PROXY|no_proxy|SSL_CERT|REQUESTS_CA|NODE_EXTRA)' | grep -v FIND_LINKS || true)
inside() { # not by chroot: the way into a namespace made there would lead out to the old root
  env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 CI=true \
    ${keep:+$(printf '%s\n' "$keep" | tr '\n' ' ')} unshare --mount --propagation private /bin/bash -euc '
      cd "$1"; mkdir -p old; pivot_root . old
      cd /; umount -l /old; rmdir /old
      cd /skerry; exec bash -c "$2"' _ "$root" "$1" </dev/null
}
echo "test-fresh: make demo"; inside "make demo"
echo "test-fresh: make test"; inside "make test"
echo "test-fresh: both passed in a new Debian 12 root"
