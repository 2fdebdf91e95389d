"""Security contexts, resources and QoS as kubelet turns them into what the kernel takes."""

from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import resources, security
from edgecore.pods.runtime import Image, Security
from edgecore.pods.unready import Unready
from tests.kit.pod_objects import UID, container, pod

Json = dict[str, Any]
ROOT = Path("/seccomp")
GIB = 1 << 30


def made(own: Json | None = None, shared: Json | None = None, image: Image | None = None, **spec: Any) -> Security:
    held = container(securityContext=own or {})
    return security.of_container(pod(held, securityContext=shared or {}, **spec), held, image or Image("i"), ROOT)


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ({}, {}, Security(uid=0)),
        ({}, {"runAsUser": 5, "runAsGroup": 6}, Security(uid=5, gid=6)),
        ({"runAsUser": 7}, {"runAsUser": 5, "runAsGroup": 6}, Security(uid=7, gid=6)),
        ({}, {"fsGroup": 9, "supplementalGroups": [1, 9]}, Security(uid=0, supplemental_groups=(9, 1))),
        ({"privileged": True}, {}, Security(uid=0, privileged=True, seccomp="Unconfined", unmasked_proc=True)),
        ({"readOnlyRootFilesystem": True}, {}, Security(uid=0, readonly_rootfs=True)),
        ({"allowPrivilegeEscalation": False}, {}, Security(uid=0, no_new_privileges=True)),
        ({"allowPrivilegeEscalation": True}, {}, Security(uid=0)),
        (
            {"capabilities": {"add": ["NET_ADMIN", "CAP_SYS_TIME"], "drop": ["all"]}},
            {},
            Security(uid=0, capabilities_add=("NET_ADMIN", "SYS_TIME"), capabilities_drop=("ALL",)),
        ),
        ({"procMount": "Unmasked"}, {}, Security(uid=0, unmasked_proc=True)),
        ({}, {"seccompProfile": {"type": "RuntimeDefault"}}, Security(uid=0, seccomp="RuntimeDefault")),
        (
            {"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}},
            {"seccompProfile": {"type": "Unconfined"}},
            Security(uid=0, seccomp="/seccomp/a/b.json"),
        ),
        (
            {"seLinuxOptions": {"type": "t", "level": "s0"}},
            {},
            Security(uid=0, selinux=("", "", "t", "s0")),
        ),
    ],
)
def test_the_container_s_word_comes_over_the_pod_s(own: Json, shared: Json, expected: Security) -> None:
    assert made(own, shared) == expected


def test_the_image_s_user_counts_when_the_pod_names_none() -> None:
    assert made(image=Image("i", uid=1000)).uid == 1000
    assert (made(image=Image("i", user_name="app")).uid, made(image=Image("i", user_name="app")).user_name) == (
        None,
        "app",
    )
    assert made({"runAsUser": 3}, image=Image("i", user_name="app")) == Security(uid=3)


@pytest.mark.parametrize(
    ("own", "image", "words"),
    [
        ({"runAsUser": 0}, Image("i"), "runAsUser breaks non-root policy"),
        ({}, Image("i"), "image will run as root"),
        ({}, Image("i", uid=0), "image will run as root"),
        ({}, Image("i", user_name="app"), "non-numeric user (app)"),
    ],
)
def test_run_as_non_root_is_kept(own: Json, image: Image, words: str) -> None:
    with pytest.raises(Unready) as caught:
        made(own, {"runAsNonRoot": True}, image)

    assert caught.value.reason == "CreateContainerConfigError"
    assert words in str(caught.value)


def test_run_as_non_root_lets_others_run() -> None:
    assert made({}, {"runAsNonRoot": True}, Image("i", uid=7)).uid == 7
    assert made({"runAsUser": 7}, {"runAsNonRoot": True}, Image("i")).uid == 7


@pytest.mark.parametrize(
    ("own", "spec", "words"),
    [
        ({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}, {}, "seccomp profile '../x'"),
        ({"seccompProfile": {"type": "Localhost"}}, {}, "seccomp profile ''"),
        ({"appArmorProfile": {"type": "Localhost"}}, {}, "AppArmor"),
        ({}, {"hostUsers": False}, "hostUsers"),
    ],
)
def test_what_cannot_be_kept_is_refused(own: Json, spec: Json, words: str) -> None:
    with pytest.raises(Unready, match=words):
        made(own, **spec)


def test_a_sandbox_is_privileged_when_one_container_is() -> None:
    plain = pod(container(), securityContext={"runAsUser": 5, "fsGroup": 6})
    strong = pod(container(), container("b", securityContext={"privileged": True}))

    assert security.of_sandbox(plain, ROOT) == Security(uid=5, supplemental_groups=(6,), seccomp="RuntimeDefault")
    assert security.of_sandbox(strong, ROOT).privileged
    assert security.of_sandbox(strong, ROOT).seccomp == "Unconfined"


@pytest.mark.parametrize(
    ("name", "spec", "allowed"),
    [
        ("net.ipv4.tcp_syncookies", {}, True),
        ("net/ipv4/ip_unprivileged_port_start", {}, True),
        ("kernel.shm_rmid_forced", {}, True),
        ("kernel.shm_rmid_forced", {"hostIPC": True}, False),
        ("net.ipv4.tcp_syncookies", {"hostNetwork": True}, False),
        ("net.core.somaxconn", {}, False),
        ("vm.swappiness", {}, False),
    ],
)
def test_only_safe_sysctls_are_set(name: str, spec: Json, allowed: bool) -> None:
    asked = {"securityContext": {"sysctls": [{"name": name, "value": "1"}]}, **spec}
    if allowed:
        assert security.sysctls(asked) == {name.replace("/", "."): "1"}
        return
    with pytest.raises(Unready) as caught:
        security.sysctls(asked)
    assert caught.value.reason == "SysctlForbidden"
    assert "forbidden sysctl" in str(caught.value)


def limited(requests: Json, limits: Json, memory: int = 4 * GIB, **spec: Any) -> tuple[int, int, int, int]:
    held = container(resources={"requests": requests, "limits": limits})
    found = resources.of_container(pod(held, **spec), held, memory)
    return found.cpu_shares, found.cpu_quota_us, found.memory_bytes, found.oom_score_adj


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, (2, 0, 0, 1000)),
        ({"cpu": "500m"}, {}, (512, 0, 0, 999)),
        ({"cpu": "1m"}, {}, (2, 0, 0, 999)),
        ({}, {"cpu": "2"}, (2048, 200_000, 0, 999)),
        ({}, {"cpu": "1m"}, (2, 1000, 0, 999)),
        ({"memory": "1Gi"}, {"memory": "2Gi"}, (2, 0, 2 * GIB, 750)),
        ({"memory": "8Gi"}, {}, (2, 0, 0, 3)),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, (1024, 100_000, GIB, -997)),
    ],
)
def test_requests_and_limits_become_cgroup_values(requests: Json, limits: Json, expected: tuple[int, ...]) -> None:
    assert limited(requests, limits) == expected


def test_a_critical_pod_is_killed_last() -> None:
    assert limited({}, {}, priority=2_000_000_000)[3] == -997


def test_a_quantity_that_is_none_is_said() -> None:
    with pytest.raises(Unready, match="resources of container app"):
        limited({"cpu": "much"}, {})


@pytest.mark.parametrize(
    ("held", "path"),
    [
        ({}, f"/skerry-pods/besteffort/pod{UID}"),
        ({"requests": {"cpu": "1"}}, f"/skerry-pods/burstable/pod{UID}"),
        (
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            f"/skerry-pods/pod{UID}",
        ),
    ],
)
def test_each_pod_has_a_cgroup_below_its_class(held: Json, path: str) -> None:
    assert resources.cgroup_parent(pod(container(resources=held))) == path
