"""What pods get as host name, /etc/hosts and /etc/resolv.conf (pure but for reading the host's own)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgecore.pods.runtime import Dns
from edgecore.pods.unready import Unready

Json = dict[str, Any]
RESOLV_CONF = Path("/etc/resolv.conf")
BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")  # what systemd-resolved's 127.0.0.53 asks
STUB = "127.0.0.53"
MAX_SERVERS, MAX_SEARCHES, MAX_SEARCH_CHARS = 3, 32, 2048
MAX_LABEL, MAX_HOSTNAME = 63, 64
MAX_FILE_BYTES = 64 << 10
HOSTS = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
HOST_NETWORK = "# Kubernetes-managed hosts file (host network).\n"


def parse(text: str) -> Dns:
    """Read a resolv.conf; the last ``search`` or ``domain`` counts, as for the C library."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        word, *rest = line.split("#")[0].split(";")[0].split() or [""]
        if word == "nameserver" and rest:
            servers.append(rest[0])
        elif word in {"search", "domain"}:
            searches = [name for name in rest if name != "."]
        elif word == "options":
            options += rest
    return Dns(tuple(servers), tuple(searches), tuple(options))


def of_host(path: Path = RESOLV_CONF, behind: Path = BEHIND_STUB) -> Dns:
    """Return the host's own settings; a local stub is useless in a pod, so what it asks is used instead."""
    found = parse(_read(path))
    if found.servers == (STUB,):
        real = parse(_read(behind))
        if real.servers:
            return Dns(real.servers, real.searches or found.searches, found.options)
    return found


def of_pod(pod: Json, host: Dns, servers: Iterable[str], domain: str) -> Dns:
    """Return what the pod's resolv.conf says by its dnsPolicy and dnsConfig; ``servers`` are the cluster's."""
    spec = pod.get("spec") or {}
    policy, cluster = spec.get("dnsPolicy") or "ClusterFirst", tuple(servers)
    first = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.get("hostNetwork"))
    out = host
    if policy == "None":
        out = Dns()
    elif first:
        namespace = pod["metadata"].get("namespace", "")
        searches = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *host.searches) if domain else host.searches
        out = Dns(cluster, searches, ("ndots:5",)) if cluster else Dns(host.servers, searches, host.options)
    return _bounded(_merged(out, spec.get("dnsConfig") or {}))


def _merged(dns: Dns, config: Mapping[str, Any]) -> Dns:
    options = {text.partition(":")[0]: text for text in dns.options}
    for item in config.get("options") or ():
        name, value = str(item.get("name", "")), item.get("value")
        options[name] = name if value in (None, "") else f"{name}:{value}"
    servers = dict.fromkeys([*dns.servers, *(config.get("nameservers") or ())])
    searches = dict.fromkeys([*dns.searches, *(config.get("searches") or ())])
    return Dns(tuple(servers), tuple(searches), tuple(options.values()))


def _bounded(dns: Dns) -> Dns:
    searches: list[str] = []
    for name in tuple(dict.fromkeys(dns.searches))[:MAX_SEARCHES]:
        if len(" ".join([*searches, name])) > MAX_SEARCH_CHARS:
            break
        searches.append(name)
    return Dns(dns.servers[:MAX_SERVERS], tuple(searches), dns.options)


def hostname(pod: Json) -> str:
    """Return the pod's host name: one label, at most 63 characters."""
    spec = pod.get("spec") or {}
    return str(spec.get("hostname") or pod["metadata"]["name"])[:MAX_LABEL].rstrip("-.")


def full_name(pod: Json, domain: str) -> str:
    """Return the fully qualified name of a pod with a subdomain; "" without."""
    subdomain = (pod.get("spec") or {}).get("subdomain")
    namespace = pod["metadata"].get("namespace", "")
    return f"{hostname(pod)}.{subdomain}.{namespace}.svc.{domain}" if subdomain else ""


def shown_hostname(pod: Json, domain: str) -> str:
    """Return what ``hostname`` says in the pod. Raises Unready for a name that the kernel does not take."""
    full = full_name(pod, domain)
    if not (full and (pod.get("spec") or {}).get("setHostnameAsFQDN")):
        return hostname(pod)
    if len(full) > MAX_HOSTNAME:
        raise Unready(
            "FailedCreatePodSandBox",
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long"
            f" ({MAX_HOSTNAME} characters is the max, {len(full)} characters requested)",
            volumes=True,
        )
    return full


def hosts(pod: Json, ips: tuple[str, ...], domain: str, host_file: str = "") -> str:
    """Return the pod's /etc/hosts. With the host's network it is the host's (``host_file``) and the aliases."""
    spec = pod.get("spec") or {}
    if spec.get("hostNetwork"):
        out = HOST_NETWORK + host_file
    else:
        names = [name for name in (full_name(pod, domain), hostname(pod)) if name]
        out = HOSTS + "".join("\t".join([ip, *names]) + "\n" for ip in ips)
    aliases = [a for a in spec.get("hostAliases") or () if a.get("ip")]
    if aliases:
        out += "\n# Entries added by HostAliases.\n"
    return out + "".join("\t".join([a["ip"], *(a.get("hostnames") or ())]) + "\n" for a in aliases)


def read_hosts(path: Path = Path("/etc/hosts")) -> str:
    return _read(path)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
