"""What people ask for that cannot be: specs, images, volumes. Each is told in words, heals by itself where it can, and harms nobody.

A full image disk, damaged archives and a node without a runtime: test_pods_on_a_small_disk.py, test_images_command.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import images
from tests.kit.command import say
from tests.kit.fleet import Fleet, Json, container, fleet, pod

NODE = "gw-1"
BROUGHT = "registry.invalid/shop/brought:latest"


@pytest.fixture(scope="module")
def site() -> Iterator[Fleet]:
    with fleet(NODE) as one:
        one.apply(pod("steady"))
        one.say("wait --for=condition=Ready pod/steady --timeout=50s")
        yield one


def waiting(site: Fleet, name: str) -> Json:
    """The reason and message of a pod's first container that waits."""
    found = site.get(f"pod {name}")["status"].get("containerStatuses") or [{}]
    return dict((found[0].get("state") or {}).get("waiting") or {"reason": "", "message": ""})


def events(site: Fleet, name: str, reason: str) -> str:
    chosen = f"involvedObject.name={name},reason={reason}"
    return site.say(f"get events --field-selector {chosen} -o jsonpath={{.items[*].message}}")


def runs(site: Fleet, name: str) -> bool:
    said = site.run(f"get pod {name} --ignore-not-found -o json").stdout
    found = json.loads(said)["status"] if said else {}
    return any(c["type"] == "Ready" and c["status"] == "True" for c in found.get("conditions", []))


def volume(kind: str, **fields: object) -> Json:
    mounts = [{"name": "it", "mountPath": "/it"}]
    return {"containers": [container(volumeMounts=mounts)], "volumes": [{"name": "it", kind: fields}]}


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("huge", {"resources": {"requests": {"cpu": "4000"}}}, "Insufficient cpu"),
        ("vast", {"resources": {"requests": {"memory": "900Ti"}}}, "Insufficient memory"),
    ],
)
def test_a_request_beyond_every_node_waits_and_says_which_resource(
    site: Fleet, name: str, fields: Json, words: str
) -> None:
    site.apply(pod(name, container(**fields)))

    site.eventually(lambda: words in events(site, name, "FailedScheduling"))
    assert site.get(f"pod {name}")["status"]["phase"] == "Pending"
    site.say(f"delete pod {name}")


def test_a_selector_that_fits_no_node_waits_until_one_does(site: Fleet) -> None:
    site.apply(pod("picky", nodeSelector={"example.com/hall": "7"}))
    site.eventually(lambda: "0/1 nodes are available" in events(site, "picky", "FailedScheduling"))

    site.say(f"label node {NODE} example.com/hall=7")

    site.eventually(lambda: runs(site, "picky"))
    site.say("delete pod picky")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"containers": [{"name": "UP", "image": "a"}]}, "spec.containers[0].name"),
        ({"containers": []}, "spec.containers"),
        ({"containers": [{"name": "a", "image": "a"}], "restartPolicy": "Sometimes"}, "spec.restartPolicy"),
        ({"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 70000}]}]}, "containerPort"),
        (
            {
                "containers": [
                    {"name": "a", "image": "a", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
                ]
            },
            "spec.containers[0].resources.requests",
        ),
    ],
)
def test_a_spec_that_means_nothing_is_refused_with_its_field(site: Fleet, spec: Json, field: str) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wrong"}, "spec": spec}

    said = site.run("create -f -", json.dumps(body))

    assert (said.returncode, field in said.stderr, "Traceback" in said.stderr) == (1, True, False), said.stderr


def test_an_image_that_is_nowhere_is_told_and_starts_when_it_is_brought_in_a_file(site: Fleet, tmp_path: Path) -> None:
    site.apply(pod("hungry", container(image=BROUGHT, imagePullPolicy="Always")))
    site.eventually(lambda: waiting(site, "hungry")["reason"] in {"ErrImagePull", "ImagePullBackOff"})
    site.eventually(lambda: "Failed to pull image" in events(site, "hungry", "Failed"))
    assert "edgecore images import FILE" in waiting(site, "hungry")["message"]
    cut = tmp_path / "cut.tar"
    archive = images.write_archive(tmp_path / "brought.tar", images.busybox_image(BROUGHT))
    cut.write_bytes(archive.read_bytes()[:200_000])

    bad = site.call(bring(site, cut))
    good = site.call(bring(site, archive))

    assert (bad[0], "Traceback" in bad[1], len(bad[1].splitlines())) == (1, False, 1), bad
    assert good[0] == 0, good
    site.eventually(lambda: runs(site, "hungry"), 40)
    assert site.get("pod hungry")["status"]["containerStatuses"][0]["restartCount"] == 0
    site.say("delete pod hungry")


async def bring(site: Fleet, archive: Path) -> tuple[int, str]:
    edge = site.edges[NODE]
    assert edge.host is not None
    chosen = ("--data-dir", str(edge.data_dir), "--set", f"pods.cri_socket={edge.host.socket}")
    said = await say("edgecore", "images", "import", str(archive), *chosen)
    return said.code, said.err


@pytest.mark.parametrize(
    ("name", "fields", "reason", "words"),
    [
        ("never", {"image": "localhost/skerry/nowhere:1", "imagePullPolicy": "Never"}, "ErrImageNeverPull", "Never"),
        ("noname", {"image": "Not//An::Image"}, "InvalidImageName", "Not//An::Image"),
    ],
)
def test_an_image_that_cannot_be_is_told(site: Fleet, name: str, fields: Json, reason: str, words: str) -> None:
    site.apply(pod(name, container(**fields)))

    site.eventually(lambda: waiting(site, name)["reason"] == reason)
    assert words in waiting(site, name)["message"]
    site.say(f"delete pod {name}")


def test_a_variable_from_what_is_missing_waits_for_it(site: Fleet) -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "mode"}}}]
    site.apply(pod("lacks", container(env=env)))
    site.eventually(lambda: waiting(site, "lacks")["reason"] == "CreateContainerConfigError")
    assert 'configmap "late" not found' in waiting(site, "lacks")["message"]

    site.say("create configmap late --from-literal=other=1")
    site.eventually(lambda: "mode" in waiting(site, "lacks")["message"])
    site.say("""patch configmap late -p '{"data":{"mode":"1"}}'""")

    site.eventually(lambda: runs(site, "lacks"))
    site.say("delete pod lacks")


def test_a_volume_that_is_missing_is_named_and_waited_for(site: Fleet) -> None:
    site.apply(
        pod("locked", **volume("secret", secretName="key")),
        pod("stray", **volume("hostPath", path="/etc/hostname", type="Directory")),
    )
    site.eventually(lambda: 'secret "key" not found' in events(site, "locked", "FailedMount"))
    site.eventually(lambda: "/etc/hostname" in events(site, "stray", "FailedMount"))

    site.say("create secret generic key --from-literal=pin=1234")

    site.eventually(lambda: runs(site, "locked"))
    assert not runs(site, "stray")
    site.say("delete pod locked stray")


def test_a_claim_that_is_missing_keeps_its_pod_from_being_placed(site: Fleet) -> None:
    site.apply(pod("homeless", **volume("persistentVolumeClaim", claimName="home")))
    site.eventually(lambda: 'persistentvolumeclaim "home" not found' in events(site, "homeless", "FailedScheduling"))

    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    site.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "home"}, "spec": spec})

    site.eventually(lambda: runs(site, "homeless"))
    site.say("delete pod homeless")


def test_two_pods_that_want_one_port_of_the_gateway(site: Fleet) -> None:
    main = container(ports=[{"containerPort": 80, "hostPort": 38080}])
    site.apply(pod("first", main))
    site.eventually(lambda: runs(site, "first"))
    site.apply(pod("second", main))
    site.eventually(lambda: "free ports" in events(site, "second", "FailedScheduling"))

    site.say("delete pod first")

    site.eventually(lambda: runs(site, "second"))
    site.say("delete pod second")


def test_a_static_pod_file_that_is_garbage_harms_nobody(site: Fleet) -> None:
    folder = site.edges[NODE].data_dir / "manifests"
    folder.mkdir(exist_ok=True)
    (folder / "bad.yaml").write_text("kind: [Pod\n  what")
    site.eventually(lambda: "bad.yaml" in site.edges[NODE].process.log.read_text())

    still = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "still"}, "spec": pod("x")["spec"]}
    (folder / "good.yaml").write_text(json.dumps(still))

    site.eventually(lambda: runs(site, f"still-{NODE}"))
    for name in ("bad.yaml", "good.yaml"):
        (folder / name).unlink()
    site.eventually(lambda: site.run(f"get pod still-{NODE}").returncode == 1)


def test_the_node_and_its_other_pod_noticed_nothing(site: Fleet) -> None:
    steady = site.get("pod steady")["status"]["containerStatuses"][0]
    ready = next(c for c in site.get(f"node {NODE}")["status"]["conditions"] if c["type"] == "Ready")

    assert (steady["restartCount"], steady["ready"], ready["status"]) == (0, True, "True")
