"""What each kind brings to a node, without any API server: objects are told to the informers."""

from typing import Any

import pytest

from cloudcore.hub import scope_pods
from cloudcore.hub.scope import Scope
from cloudcore.kube import resources
from cloudcore.kube.client import KubeClient
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.config import KubeAccess
from cloudcore.kube.errors import Forbidden
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, CRD, NODE, POD, SECRET, Kind
from proto.kit.backoff import Rng
from proto.kit.metrics import Metrics
from proto.labels import EDGE_ROLE
from proto.link.replica import NotSynced
from tests.kit.clock import ManualClock

METADATA = ("labels", "annotations", "ownerReferences")


class World:
    """A scope over informers that are told what to show."""

    def __init__(self) -> None:
        client = KubeClient(KubeAccess(server="http://127.0.0.1:1", context=None))
        self.cluster = Cluster(client, clock=ManualClock(), rng=Rng(1), metrics=Metrics())
        self.told: list[tuple[str, str]] = []
        self.scope = Scope(self.cluster, lambda node, key: self.told.append((node, key)))
        for informer in self.cluster.informers:
            informer.synced.set()
            informer.settled.set()
        self.revision = 0
        self.put(NODE, "", "gw-1", labels={EDGE_ROLE: ""})

    def put(self, kind: Kind, namespace: str, name: str, **fields: Any) -> None:
        self.revision += 1
        metadata = {"name": name, "uid": f"u-{name}", "resourceVersion": str(self.revision)}
        metadata |= {k: fields.pop(k) for k in METADATA if k in fields}
        if namespace:
            metadata["namespace"] = namespace
        informer = self.cluster.find(kind.group, kind.plural)
        assert informer is not None
        informer._set(Name(namespace, name), {"metadata": metadata, **fields})

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        self.cluster.of(kind)._set(Name(namespace, name), None)

    def pod(self, name: str = "web", node: str = "gw-1", **fields: Any) -> None:
        spec = {"nodeName": node, "containers": [], **fields.pop("spec", {})}
        self.put(POD, "shop", name, spec=spec, **fields)

    def holds(self, kind: Kind, node: str = "gw-1") -> set[str]:
        prefix = f"{kind.group or 'core'}/{kind.plural}/"
        return {key.rsplit("/", 1)[1] for key in self.scope.wanted(node) if key.startswith(prefix)}


@pytest.fixture
def world() -> World:
    return World()


def owner(kind: Kind, name: str) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "name": name, "uid": f"u-{name}"}


def test_owners_come_up_the_chain(world: World) -> None:
    world.put(resources.DEPLOYMENT, "shop", "web")
    world.put(resources.REPLICA_SET, "shop", "web-1", ownerReferences=[owner(resources.DEPLOYMENT, "web")])
    world.put(resources.REPLICA_SET, "shop", "web-0", ownerReferences=[owner(resources.DEPLOYMENT, "web")])

    world.pod("web-1-x", ownerReferences=[owner(resources.REPLICA_SET, "web-1")])

    assert world.holds(resources.REPLICA_SET) == {"web-1"}
    assert world.holds(resources.DEPLOYMENT) == {"web"}


def test_a_claim_brings_its_volume_even_when_it_is_bound_later(world: World) -> None:
    world.pod(spec={"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]})
    world.put(resources.CLAIM, "shop", "disk", spec={})
    assert world.holds(resources.CLAIM) == {"disk"}

    world.put(resources.VOLUME, "", "pv-1", spec={})
    world.put(resources.CLAIM, "shop", "disk", spec={"volumeName": "pv-1"})

    assert world.holds(resources.VOLUME) == {"pv-1"}


def test_an_ephemeral_claim_comes_with_its_pod(world: World) -> None:
    world.pod(spec={"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]})

    world.put(resources.CLAIM, "shop", "web-v", spec={}, ownerReferences=[owner(POD, "web")])

    assert world.holds(resources.CLAIM) == {"web-v"}


def test_only_services_of_namespaces_in_use_come(world: World) -> None:
    for namespace in ("shop", "office"):
        world.put(resources.SERVICE, namespace, f"of-{namespace}", spec={})
        world.put(resources.ENDPOINT_SLICE, namespace, f"of-{namespace}-1", endpoints=[])
        world.put(resources.NAMESPACE, "", namespace)

    world.pod()

    assert world.holds(resources.SERVICE) == {"of-shop"}
    assert world.holds(resources.ENDPOINT_SLICE) == {"of-shop-1"}
    assert world.holds(resources.NAMESPACE) == {"shop"}


def template(**spec: Any) -> dict[str, Any]:
    return {"template": {"spec": {"imagePullSecrets": [{"name": "pull"}], **spec}}}


def required(key: str, *values: str) -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


@pytest.mark.parametrize(
    ("spec", "there"),
    [
        ({"nodeName": "gw-1"}, True),
        ({"nodeSelector": {"kubernetes.io/hostname": "gw-1"}}, True),
        ({"affinity": required("kubernetes.io/hostname", "gw-1")}, True),
        ({"affinity": required("kubernetes.io/hostname", "gw-1", "gw-2")}, False),
        ({"affinity": required("zone", "gw-1")}, False),
        ({"nodeSelector": {"kubernetes.io/hostname": "gw-2"}}, False),
        ({}, False),
    ],
)
def test_a_cron_job_that_one_node_alone_can_run_is_there_with_what_its_pods_will_read(
    world: World, spec: dict[str, Any], there: bool
) -> None:
    world.put(SECRET, "shop", "pull", data={})

    world.put(resources.CRON_JOB, "shop", "night", spec={"jobTemplate": {"spec": template(**spec)}})
    world.put(resources.JOB, "shop", "once", spec=template(**spec))

    assert world.holds(resources.CRON_JOB) == ({"night"} if there else set())
    assert world.holds(resources.JOB) == ({"once"} if there else set())
    assert world.holds(SECRET) == ({"pull"} if there else set())


def binding(role: str, *subjects: dict[str, Any]) -> dict[str, Any]:
    return {"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": list(subjects)}


def group(name: str) -> dict[str, Any]:
    return {"kind": "Group", "name": name}


def test_rights_of_accounts_on_the_node_and_of_technicians_come_and_no_others(world: World) -> None:  # HUB-3
    for name in ("of-account", "of-user", "of-namespace", "of-any", "of-admins", "of-others", "of-gw-2"):
        world.put(CLUSTER_ROLE, "", name, rules=[])
    clerk = {"kind": "ServiceAccount", "namespace": "shop", "name": "clerk"}
    world.put(CLUSTER_ROLE_BINDING, "", "a", **binding("of-account", clerk))
    world.put(
        CLUSTER_ROLE_BINDING,
        "",
        "b",
        **binding("of-user", {"kind": "User", "name": "system:serviceaccount:shop:clerk"}),
    )
    world.put(CLUSTER_ROLE_BINDING, "", "c", **binding("of-namespace", group("system:serviceaccounts:shop")))
    world.put(CLUSTER_ROLE_BINDING, "", "d", **binding("of-any", group("system:serviceaccounts")))
    world.put(CLUSTER_ROLE_BINDING, "", "e", **binding("of-admins", group("skerry:node-admins")))
    world.put(
        CLUSTER_ROLE_BINDING, "", "f", **binding("of-others", group("accountants"), {"kind": "User", "name": "ann"})
    )
    world.put(CLUSTER_ROLE_BINDING, "", "g", **binding("of-gw-2", {"kind": "User", "name": "skerry:node-admin:gw-2"}))
    assert world.holds(CLUSTER_ROLE) == {"of-admins"}

    world.put(resources.SERVICE_ACCOUNT, "shop", "clerk")
    world.pod(spec={"serviceAccountName": "clerk"})

    assert world.holds(CLUSTER_ROLE_BINDING) == {"a", "b", "c", "d", "e"}
    assert world.holds(CLUSTER_ROLE) == {"of-account", "of-user", "of-namespace", "of-any", "of-admins"}
    assert world.holds(CLUSTER_ROLE, "gw-2") == {"of-admins", "of-gw-2"}


def test_bindings_in_a_namespace_come_by_whom_they_concern_with_what_they_refer_to(world: World) -> None:  # HUB-3
    world.put(resources.ROLE, "shop", "reader", rules=[])
    world.put(resources.ROLE, "shop", "of-others", rules=[])
    world.put(
        CLUSTER_ROLE, "", "view", aggregationRule={"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]}
    )
    world.put(CLUSTER_ROLE, "", "view-more", labels={"to-view": "true"}, rules=[])
    clerk = {"kind": "ServiceAccount", "namespace": "shop", "name": "clerk"}
    world.put(resources.ROLE_BINDING, "shop", "reads", roleRef={"kind": "Role", "name": "reader"}, subjects=[clerk])
    world.put(resources.ROLE_BINDING, "shop", "all", **binding("view", group("system:serviceaccounts:shop")))
    world.put(
        resources.ROLE_BINDING,
        "shop",
        "others",
        roleRef={"kind": "Role", "name": "of-others"},
        subjects=[group("accountants")],
    )

    world.pod(spec={"serviceAccountName": "clerk"})

    assert world.holds(resources.ROLE_BINDING) == {"reads", "all"}
    assert world.holds(resources.ROLE) == {"reader"}
    assert world.holds(CLUSTER_ROLE) == {"view", "view-more"}


MIRRORED = {"annotations": {"kubernetes.io/config.mirror": "h"}}


@pytest.mark.parametrize(
    "made",
    [
        (POD, {"spec": {"nodeName": "gw-1", "containers": []}, **MIRRORED}),
        (POD, {"spec": {"nodeName": "gw-1", "containers": []}, **MIRRORED, "labels": {"edge.skerry.io/node": "gw-1"}}),
        (
            Kind("edge.skerry.io", "v1alpha1", "writeconflicts", "WriteConflict"),
            {"labels": {"edge.skerry.io/node": "gw-1"}},
        ),
        (resources.CONFIG_MAP, {"data": {}, "labels": {"edge.skerry.io/node": "gw-1"}}),
    ],
)
def test_what_a_node_can_make_in_a_namespace_brings_it_nothing_of_it(
    world: World, made: tuple[Kind, dict[str, Any]]
) -> None:  # HUB-16
    world.put(CRD, "", "writeconflicts.edge.skerry.io", **conflicts_definition())
    everything = (SECRET, resources.SERVICE_ACCOUNT, resources.SERVICE, resources.ENDPOINT_SLICE, resources.ROLE)
    for kind in everything:
        world.put(kind, "kube-system", "default")
    subjects = [group("system:serviceaccounts"), group("system:serviceaccounts:kube-system")]
    world.put(
        resources.ROLE_BINDING, "kube-system", "a", roleRef={"kind": "Role", "name": "default"}, subjects=subjects
    )

    world.put(made[0], "kube-system", "mine", **made[1])

    assert world.holds(made[0]) == {"mine"}
    assert {kind.kind: held for kind in (*everything, resources.ROLE_BINDING) if (held := world.holds(kind))} == {}


def test_a_mirror_that_names_another_node_in_a_label_does_not_go_there(world: World) -> None:  # HUB-16
    spec = {"nodeName": "gw-1", "containers": []}
    world.put(POD, "shop", "mine", spec=spec, labels={"edge.skerry.io/node": "gw-2"}, **MIRRORED)

    assert world.holds(POD, "gw-2") == set()


def conflicts_definition() -> dict[str, Any]:
    names = {"plural": "writeconflicts", "kind": "WriteConflict"}
    versions = [{"name": "v1alpha1", "served": True, "storage": True}]
    return {
        "labels": {"edge.skerry.io/sync": "labelled"},
        "spec": {"group": "edge.skerry.io", "scope": "Namespaced", "names": names, "versions": versions},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }


def definition(**labels: str) -> dict[str, Any]:
    names = {"plural": "recipes", "kind": "Recipe"}
    versions = [{"name": "v1", "served": True, "storage": True}]
    spec = {"group": "bakery.example", "scope": "Namespaced", "names": names, "versions": versions}
    return {
        "labels": labels,
        "spec": spec,
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }


RECIPE = Kind("bakery.example", "v1", "recipes", "Recipe")


def follow(world: World, **labels: str) -> None:
    world.put(CRD, "", "recipes.bakery.example", **definition(**labels))
    informer = world.cluster.find(RECIPE.group, RECIPE.plural)
    if informer is not None:
        informer.synced.set()


def test_objects_of_a_definition_that_says_so_go_to_every_node(world: World) -> None:
    follow(world, **{"edge.skerry.io/sync": "all"})

    world.put(RECIPE, "shop", "bread", spec={})

    assert world.holds(RECIPE) == world.holds(RECIPE, "gw-2") == {"bread"}
    assert world.holds(CRD) == {"recipes.bakery.example"}
    assert ("gw-1", RECIPE.key("shop", "bread")) in world.told


def test_a_definition_that_says_it_no_more_takes_its_objects_back(world: World) -> None:
    follow(world, **{"edge.skerry.io/sync": "all"})
    world.put(RECIPE, "shop", "bread", spec={})
    world.told.clear()

    follow(world)

    assert world.holds(RECIPE) == set()
    assert world.holds(CRD) == set()
    assert world.scope.body("gw-1", RECIPE.key("shop", "bread")) is None
    assert ("gw-1", RECIPE.key("shop", "bread")) in world.told


def test_labelled_objects_go_to_the_node_that_their_label_names(world: World) -> None:
    follow(world, **{"edge.skerry.io/sync": "labelled"})
    world.put(RECIPE, "shop", "bread", spec={}, labels={"edge.skerry.io/node": "gw-1"})
    world.put(RECIPE, "shop", "cake", spec={})
    world.put(resources.CONFIG_MAP, "shop", "notes", data={}, labels={"edge.skerry.io/node": "gw-1"})
    world.put(resources.SERVICE, "shop", "till", spec={}, labels={"edge.skerry.io/node": "gw-1"})

    assert world.holds(RECIPE) == {"bread"}
    assert world.holds(resources.CONFIG_MAP) == {"notes"}

    world.put(resources.SERVICE, "shop", "till", spec={})
    world.put(resources.CONFIG_MAP, "shop", "notes", data={})
    world.put(RECIPE, "shop", "bread", spec={})

    assert world.holds(RECIPE) == world.holds(resources.CONFIG_MAP) == world.holds(resources.SERVICE) == set()


def test_the_node_flows_down_with_taints_labels_and_whether_it_is_cordoned(world: World) -> None:
    before = world.scope.wanted("gw-1")[NODE.key("", "gw-1")]

    world.put(NODE, "", "gw-1", labels={EDGE_ROLE: ""}, spec={"unschedulable": True, "taints": [{"key": "k"}]})

    body = world.scope.body("gw-1", NODE.key("", "gw-1"))
    assert body is not None
    assert b'"unschedulable":true' in body
    assert world.scope.wanted("gw-1")[NODE.key("", "gw-1")] != before
    assert world.holds(NODE) == {"gw-1"}


def test_what_cannot_be_read_is_not_called_gone(world: World) -> None:  # HUB-4
    world.pod(spec={"imagePullSecrets": [{"name": "pull"}]})
    world.cluster.of(SECRET).synced.clear()
    world.cluster.of(SECRET)._leave_out(Forbidden(403, "Forbidden", "secrets is forbidden"))

    assert POD.key("shop", "web") in world.scope.wanted("gw-1")
    with pytest.raises(NotSynced):
        world.scope.body("gw-1", SECRET.key("shop", "pull"))


def test_while_pods_cannot_be_read_nothing_that_they_may_need_is_called_gone(world: World) -> None:
    world.cluster.pods.synced.clear()

    with pytest.raises(NotSynced):
        world.scope.body("gw-1", SECRET.key("shop", "pull"))
    assert world.scope.body("gw-1", resources.DEVICE.key("shop", "kiln")) is None


def test_an_object_of_no_known_shape_ends_nothing(world: World) -> None:
    world.pod(spec={"volumes": 7})
    world.pod("next")
    world.pod(spec={"volumes": []})

    assert world.holds(POD) == {"web", "next"}


def test_everything_leaves_with_the_last_pod(world: World) -> None:
    world.put(SECRET, "shop", "pull", data={})
    world.put(resources.NAMESPACE, "", "shop")
    before = set(world.scope.wanted("gw-1"))
    for name in ("web", "next"):
        world.pod(name, spec={"imagePullSecrets": [{"name": "pull"}]})
    assert world.holds(SECRET) == {"pull"}

    for name in ("web", "next"):
        world.remove(POD, "shop", name)

    assert set(world.scope.wanted("gw-1")) == before


def test_every_secret_of_a_pod_is_found_wherever_it_is_named() -> None:
    spec = {
        "volumes": [{"name": "a", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}],
        "initContainers": [{"env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "init", "key": "k"}}}]}],
        "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "debug"}}]}],
    }

    found = set(scope_pods.needs("shop", spec))

    assert {SECRET.key("shop", name) for name in ("csi", "init", "debug")} <= found
