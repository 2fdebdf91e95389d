"""resolv.conf, /etc/hosts and host names of pods."""

from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import dns
from edgecore.pods.runtime import Dns
from edgecore.pods.unready import Unready
from tests.kit.pod_objects import pod

HOST = Dns(("192.0.2.1",), ("site.example",), ("timeout:2",))
CLUSTER = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "site.example")
Json = dict[str, Any]


@pytest.mark.parametrize(
    ("spec", "servers", "expected"),
    [
        ({}, ["10.96.0.10"], Dns(("10.96.0.10",), CLUSTER, ("ndots:5",))),
        ({}, [], Dns(("192.0.2.1",), CLUSTER, ("timeout:2",))),
        ({"dnsPolicy": "Default"}, ["10.96.0.10"], HOST),
        ({"hostNetwork": True}, ["10.96.0.10"], HOST),
        (
            {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
            ["10.96.0.10"],
            Dns(("10.96.0.10",), CLUSTER, ("ndots:5",)),
        ),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["9.9.9.9"],
                    "searches": ["x"],
                    "options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}],
                },
            },
            [],
            Dns(("9.9.9.9",), ("x",), ("ndots:1", "edns0")),
        ),
        (
            {"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["192.0.2.1", "9.9.9.9"], "options": [{"name": "timeout", "value": "9"}]}},
            [],
            Dns(("192.0.2.1", "9.9.9.9"), ("site.example",), ("timeout:9",)),
        ),
    ],
)  # fmt: skip
def test_the_policy_and_the_config_make_resolv_conf(spec: Json, servers: list[str], expected: Dns) -> None:
    assert dns.of_pod(pod(**spec), HOST, servers, "cluster.local") == expected


def test_what_the_resolver_would_not_read_is_left_out() -> None:
    config = {"nameservers": [f"10.0.0.{n}" for n in range(5)], "searches": ["y" * 60 + f".{n}" for n in range(60)]}

    found = dns.of_pod(pod(dnsPolicy="None", dnsConfig=config), HOST, [], "")

    assert len(found.servers) == 3
    assert len(found.searches) <= 32
    assert len(" ".join(found.searches)) <= 2048


def test_a_resolv_conf_is_read_as_the_c_library_does() -> None:
    text = "# remark\nnameserver 1.1.1.1\nsearch a\nnameserver fd00::1 ; x\nsearch b c .\noptions ndots:2 edns0\ndomain\nlookup\n"

    assert dns.parse(text) == Dns(("1.1.1.1", "fd00::1"), (), ("ndots:2", "edns0"))
    assert dns.parse("domain d\n").searches == ("d",)


def test_the_servers_behind_a_local_stub_are_used(tmp_path: Path) -> None:
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\nsearch x\n")
    (tmp_path / "real").write_text("nameserver 192.0.2.1\n")

    assert dns.of_host(tmp_path / "stub", tmp_path / "real") == Dns(("192.0.2.1",), ("x",))
    assert dns.of_host(tmp_path / "stub", tmp_path / "none") == Dns(("127.0.0.53",), ("x",))
    assert dns.of_host(tmp_path / "none", tmp_path / "none") == Dns()


@pytest.mark.parametrize(
    ("spec", "name", "shown"),
    [
        ({}, "web", "web"),
        ({"hostname": "h"}, "web", "h"),
        ({}, "a" * 62 + "-b" * 10, "a" * 62),
        ({"hostname": "h", "subdomain": "s"}, "web", "h"),
        ({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": True}, "web", "h.s.default.svc.cluster.local"),
        ({"setHostnameAsFQDN": True}, "web", "web"),
    ],
)
def test_the_host_name_is_one_label_unless_asked_otherwise(spec: Json, name: str, shown: str) -> None:
    assert dns.shown_hostname(pod(name=name, **spec), "cluster.local") == shown


def test_a_full_name_that_the_kernel_does_not_take_is_said() -> None:
    with pytest.raises(Unready, match="is too long"):
        dns.shown_hostname(pod(hostname="h" * 60, subdomain="s", setHostnameAsFQDN=True), "cluster.local")


def test_etc_hosts_names_the_pod_and_the_aliases() -> None:
    spec = pod(hostname="h", subdomain="s", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])

    text = dns.hosts(spec, ("10.88.0.5", "fd00::5"), "cluster.local")

    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "10.88.0.5\th.s.default.svc.cluster.local\th\n" in text
    assert "fd00::5\th.s.default.svc.cluster.local\th\n" in text
    assert text.endswith("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")


def test_with_the_host_s_network_etc_hosts_is_the_host_s() -> None:
    spec = pod(hostNetwork=True, hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a"]}])

    text = dns.hosts(spec, ("192.0.2.10",), "cluster.local", "127.0.0.1\tlocalhost gw\n")

    assert text.splitlines()[:2] == ["# Kubernetes-managed hosts file (host network).", "127.0.0.1\tlocalhost gw"]
    assert "1.2.3.4\ta" in text
    assert "192.0.2.10" not in text
