"""What a container on a real containerd sees of volumes, environment, identity and names; and what is left afterwards."""

import base64
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import cgroups, mounts
from kubeapi.kinds import CONFIG_MAP, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, SECRET, SERVICE_ACCOUNT
from tests.kit.images import BUSYBOX_REF
from tests.kit.pods import PodWorld, container, pod, uid_of
from tests.kit.wait import eventually

Json = dict[str, Any]


def held(kind: str, name: str, **fields: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "uid": f"u-{name}"},
        **fields,
    }


async def inside(node: PodWorld, name: str, script: str) -> str:
    """Run a script in the pod's first container; its output."""
    container_id = node.state(name)["containerID"].rpartition("/")[2]
    assert node.room.runtime is not None
    done = await node.room.runtime.exec_sync(container_id, ("sh", "-c", script), 20)
    assert done.exit_code == 0, done
    return done.stdout.decode()


async def objects(node: PodWorld) -> None:
    await node.put(held("ConfigMap", "cfg", data={"app.conf": "one", "mode": "fast"}), CONFIG_MAP)
    await node.put(held("Secret", "key", data={"pin": base64.b64encode(b"1234").decode()}), SECRET)
    await node.put(held("ServiceAccount", "robot"), SERVICE_ACCOUNT)
    claim = held("PersistentVolumeClaim", "data", spec={"volumeName": "pv-1"}, status={"phase": "Bound"})
    await node.put(claim, PERSISTENT_VOLUME_CLAIM)
    volume = held("PersistentVolume", "pv-1", spec={"persistentVolumeReclaimPolicy": "Delete"})
    volume["metadata"] = {"name": "pv-1", "uid": "u", "annotations": {"edge.skerry.io/local-path": "pv-1"}}
    await node.put(volume, PERSISTENT_VOLUME)


def full(tmp_path: Path) -> Json:
    """A pod with one volume of each kind, run as nobody in particular."""
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    names = {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
    volumes: dict[str, Json] = {
        "cfg": {"configMap": {"name": "cfg"}},
        "key": {"secret": {"secretName": "key", "defaultMode": 0o400}},
        "all": {"projected": {"sources": [token, names]}},
        "fast": {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        "work": {"emptyDir": {}},
        "host": {"hostPath": {"path": str(tmp_path / "host"), "type": "DirectoryOrCreate"}},
        "data": {"persistentVolumeClaim": {"claimName": "data"}},
    }
    one = container(
        volumeMounts=[
            *({"name": name, "mountPath": f"/v/{name}"} for name in volumes),
            {"name": "cfg", "mountPath": "/etc/app.conf", "subPath": "app.conf"},
            {"name": "work", "mountPath": "/v/named", "subPathExpr": "$(POD)/x"},
        ],
        env=[
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "PIN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "pin"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "BOTH", "value": "$(POD)-$(PIN)"},
        ],
        securityContext={
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    )
    return pod(
        "full",
        one,
        labels={"app": "shop"},
        volumes=[{"name": name, **source} for name, source in volumes.items()],
        securityContext={"runAsUser": 1000, "runAsGroup": 3000, "runAsNonRoot": True, "fsGroup": 2000},
        serviceAccountName="robot",
        hostname="till",
        subdomain="shops",
        hostAliases=[{"ip": "192.0.2.7", "hostnames": ["printer"]}],
        dnsPolicy="None",
        dnsConfig={
            "nameservers": ["192.0.2.53"],
            "searches": ["shop.example"],
            "options": [{"name": "ndots", "value": "1"}],
        },
    )


@pytest.mark.timeout(120)
async def test_a_container_sees_what_its_pod_says(node: PodWorld, tmp_path: Path) -> None:
    await objects(node)
    await node.put(full(tmp_path))
    await node.ready("full")

    async def sh(script: str) -> str:
        return (await inside(node, "full", script)).strip()

    assert await sh("id -u; id -g; id -G | tr ' ' '\\n' | grep 2000") == "1000\n3000\n2000"
    assert (
        await sh("grep -E 'NoNewPrivs|CapEff' /proc/self/status | tr -d '\\t '")
        == "CapEff:0000000000000000\nNoNewPrivs:1"
    )
    assert await sh("cat /v/cfg/app.conf /etc/app.conf /v/key/pin") == "oneone1234"
    assert await sh("cat /v/all/labels; echo; wc -c < /v/all/token | grep -c '[0-9][0-9][0-9]'") == 'app="shop"\n1'
    assert await sh("for d in fast work data named; do echo x > /v/$d/f && cat /v/$d/f; done") == "x\nx\nx\nx"
    assert await sh("touch /v/cfg/x /v/key/x /etc/x 2>/dev/null || echo no") == "no"
    assert await sh("echo $BOTH; hostname; cat /etc/resolv.conf") == (
        "full-1234\ntill\nsearch shop.example\nnameserver 192.0.2.53\noptions ndots:1"
    )
    hosts = await sh("cat /etc/hosts")
    assert "\ttill.shops.default.svc.cluster.local\ttill" in hosts
    assert "192.0.2.7\tprinter" in hosts
    assert await sh("echo $IP") == node.status("full")["podIP"]
    assert (tmp_path / "edge/local-path/pv-1/f").read_text() == "x\n"
    assert (tmp_path / "edge/local-path/pv-1/f").stat().st_gid == 2000

    await node.put(held("ConfigMap", "cfg", data={"app.conf": "two"}), CONFIG_MAP)
    await eventually(lambda: sh("cat /v/cfg/app.conf | grep two || true"), 15)
    assert await sh("cat /etc/app.conf; ls /v/cfg") == "oneapp.conf"  # a subPath stays what it was


@pytest.mark.timeout(120)
async def test_nothing_but_the_data_is_left_of_a_pod(node: PodWorld, tmp_path: Path) -> None:
    await objects(node)
    await node.put(full(tmp_path))
    await node.ready("full")
    builder = node.room.builder
    assert builder is not None
    assert builder.orphans() == {uid_of("full")}
    await inside(node, "full", "echo kept > /v/data/f")

    await node.delete("full")
    await eventually(lambda: not builder.orphans(), 30)

    assert mounts.below(tmp_path) == []
    assert not [path for root in cgroups.hierarchies() for path in root.glob(f"skerry-pods/**/pod{uid_of('full')}")]
    assert (tmp_path / "edge/local-path/pv-1/f").read_text() == "kept\n"
    assert list((tmp_path / "edge/logs").iterdir()) == []


@pytest.mark.timeout(120)
async def test_a_pod_weighs_what_it_asks_for(node: PodWorld) -> None:
    await node.put(pod("heavy", container(resources={"requests": {"cpu": "1500m"}, "limits": {"memory": "64Mi"}})))
    await node.ready("heavy")

    own = [path for root in cgroups.hierarchies() for path in root.glob(f"skerry-pods/burstable/pod{uid_of('heavy')}")]
    files = [path / file for path in own for file in ("cpu.shares", "cpu.weight") if (path / file).exists()]
    assert [path.read_text().strip() for path in files] in (["1536"], ["59"])


@pytest.mark.timeout(120)
async def test_a_static_pod_runs_from_its_file_to_the_end_of_it(node: PodWorld, tmp_path: Path) -> None:
    folder = tmp_path / "edge/manifests"
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "bad.yaml").write_text("kind: [")
    text = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: disc}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"
        f"  - {{name: main, image: '{BUSYBOX_REF}', imagePullPolicy: Never, command: [sleep, '1000']}}\n"
    )
    (folder / "disc.yaml").write_text(text)

    await node.ready("disc-gw-1", timeout_s=30)
    first = node.state("disc-gw-1")["containerID"]
    assert "bad.yaml line 1" in node.events("BadStaticPod")[0]["message"]
    assert [body["pod"]["metadata"]["name"] for body in node.messages("pod-mirror")] == ["disc-gw-1"]

    (folder / "disc.yaml").write_text(text.replace("'1000'", "'2000'"))
    await eventually(lambda: node.is_ready("disc-gw-1") and node.state("disc-gw-1")["containerID"] != first, 30)
    (folder / "disc.yaml").unlink()
    builder = node.room.builder
    await eventually(lambda: builder is not None and not builder.orphans(), 30)


@pytest.mark.timeout(120)
async def test_a_pod_waits_for_what_it_needs_and_starts_when_it_comes(node: PodWorld) -> None:
    waiting = container(volumeMounts=[{"name": "cfg", "mountPath": "/v"}])
    await node.put(pod("waits", waiting, volumes=[{"name": "cfg", "configMap": {"name": "cfg"}}]))
    await eventually(
        lambda: node.state("waits").get("state", {}).get("waiting", {}).get("reason") == "ContainerCreating", 15
    )
    await eventually(lambda: node.events("FailedMount"), 15)
    assert 'configmap "cfg" not found' in node.events("FailedMount")[0]["message"]

    await node.put(held("ConfigMap", "cfg", data={"a": "1"}), CONFIG_MAP)

    await node.ready("waits")
