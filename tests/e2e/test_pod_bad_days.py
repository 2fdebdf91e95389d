"""What a gateway cannot do for a pod although the spec is valid, and how full it may be: as people see it through kubectl and at the gateway.

Elsewhere: specs, selectors, images without a registry, volumes (test_pod_bad_specs.py); probes, hooks, runtime, log flood (test_pod_bad_runtime.py);
OOMKilled, crash loops (test_pods_on_containerd.py); a full disk (test_pods_on_a_small_disk.py); a node's own refusals (test_pods_of_all_shapes.py,
unit/edgecore_pods/test_words.py); damaged archives, cgroup v1 and v2 (conformance/runtime); clock jumps and deadlines (unit/edgecore_pods/test_controller.py).
"""

import json
from collections.abc import Iterator

import pytest

from tests.kit.command import Said, say
from tests.kit.containerd import Host
from tests.kit.fleet import Fleet, Json, container, fleet, pod
from tests.kit.registry import Registry

NODE = "gw-1"
MAX_PODS = 20


@pytest.fixture(scope="module")
def site() -> Iterator[Fleet]:
    with fleet(NODE, edge_sets=(f"pods.max_pods={MAX_PODS}",)) as one:
        one.apply(pod("steady"))
        one.say("wait --for=condition=Ready pod/steady --timeout=50s")
        yield one


@pytest.fixture(scope="module")
def registry(site: Fleet) -> Iterator[Registry]:
    """One that answers, and has nothing."""
    one = Registry(host(site).listener())
    yield one
    one.close()


def host(site: Fleet) -> Host:
    found = site.edges[NODE].host
    assert found is not None
    return found


def edgecore(site: Fleet, *words: str) -> Said:
    """A command that a person types at the gateway."""
    where = ("--data-dir", str(site.edges[NODE].data_dir))
    return site.call(say("edgecore", *words, *where))


def why(site: Fleet, name: str) -> str:
    """The sentence that ``edgecore pods`` has for a pod."""
    rows = edgecore(site, "pods", "-o", "json").json()["items"]
    return next((str(row["why"]) for row in rows if row["name"] == name), "")


def said(site: Fleet, name: str, reason: str) -> str:
    """The messages of a pod's events of one reason."""
    return site.say(
        f"get events --field-selector involvedObject.name={name},reason={reason} -o jsonpath={{.items[*].message}}"
    )


def waiting(site: Fleet, name: str) -> tuple[str, str]:
    """Reason and message of what a pod's container waits for."""
    status = site.get(f"pod {name}").get("status") or {}
    state: Json = next(iter(status.get("containerStatuses") or [{}])).get("state") or {}
    found = state.get("waiting") or {}
    return found.get("reason", ""), found.get("message", "")


def waits(site: Fleet, name: str, reasons: str, words: str) -> None:
    """Wait until a pod waits for one of the ``|``-separated reasons, and says so in these words."""
    seen: list[tuple[str, str]] = []

    def so() -> bool:
        seen.append(waiting(site, name))
        return seen[-1][0] in reasons.split("|") and words in seen[-1][1]

    try:
        site.eventually(so)
    except AssertionError as error:
        raise AssertionError(f"{name} says {seen[-1]}, not {reasons}: {words}\n{error}") from error


def test_what_this_gateway_cannot_run_says_so(site: Fleet) -> None:
    site.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "kata"})
    site.apply(
        pod("virtual", runtimeClassName="vm"),
        pod("windows", os={"name": "windows"}, nodeName=NODE),
        pod("no-program", container("main", "/bin/no-such-program")),
    )

    site.eventually(lambda: "kata" in said(site, "virtual", "FailedCreatePodSandBox"))
    waits(site, "virtual", "ContainerCreating", "kata")
    site.eventually(lambda: site.get("pod windows")["status"].get("reason") == "PodOSNotSupported")
    site.eventually(lambda: "no-such-program" in said(site, "no-program", "Failed"))
    site.say("delete pod virtual windows no-program")
    site.say("delete runtimeclass vm")


def test_an_image_that_its_registry_lacks_says_so_while_it_waits(site: Fleet, registry: Registry) -> None:
    site.apply(pod("absent", container(image=registry.reference("shop/absent", "1"))))

    waits(site, "absent", "ErrImagePull|ImagePullBackOff", "not found")
    assert "not found" in said(site, "absent", "Failed")
    assert "not found" in why(site, "absent")
    site.say("delete pod absent")


def test_a_device_that_no_node_has_is_named(site: Fleet) -> None:
    site.apply(pod("exotic", container(resources={"limits": {"example.com/fpga": "1"}})))

    site.eventually(lambda: "1 Insufficient example.com/fpga" in said(site, "exotic", "FailedScheduling"))
    site.say("delete pod exotic")


@pytest.mark.parametrize(
    ("spec", "words"),
    [({"runtimeClassName": "gvisor"}, 'RuntimeClass "gvisor" not found'), ({"priorityClassName": "royal"}, "royal")],
)
def test_a_class_that_nobody_made_is_named_when_the_pod_is_made(site: Fleet, spec: Json, words: str) -> None:
    done = site.run("create -f -", json.dumps(pod("bad", **spec)))

    assert (done.returncode, words in done.stderr) == (1, True), done.stderr


def test_a_full_node_takes_no_more_and_says_so_twice(site: Fleet) -> None:
    here = len(site.get(f"pods -A --field-selector spec.nodeName={NODE},status.phase!=Failed")["items"])
    fill = [f"fill-{at}" for at in range(MAX_PODS - here)]
    unseen = container(image="registry.invalid/shop/none:1", imagePullPolicy="Never")
    site.apply(*(pod(name, unseen, nodeName=NODE, hostNetwork=True) for name in fill))
    for name in fill:
        waits(site, name, "ErrImageNeverPull", "")

    site.apply(pod("late"), pod("forced", nodeName=NODE))
    site.eventually(lambda: "Too many pods" in said(site, "late", "FailedScheduling"))
    site.eventually(lambda: site.get("pod forced")["status"].get("reason") == "OutOfpods")
    site.say(f"delete pod {' '.join(fill)} forced")

    site.say("wait --for=condition=Ready pod/late --timeout=50s")
    site.say("delete pod late")


def test_the_pod_beside_it_all_was_never_restarted_and_the_node_is_well(site: Fleet) -> None:
    main = site.get("pod steady")["status"]["containerStatuses"][0]
    conditions = {c["type"]: c["status"] for c in site.get(f"node {NODE}")["status"]["conditions"]}
    site.apply(pod("fresh"))
    site.say("wait --for=condition=Ready pod/fresh --timeout=50s")
    site.say("delete pod fresh")

    assert (main["restartCount"], main["ready"], conditions["Ready"]) == (0, True, "True"), conditions
