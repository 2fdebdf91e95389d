"""Who may do what at the node, and what belongs to it."""

from pathlib import Path
from typing import Any

import pytest

from edgecore.data_dir import DataDir
from edgecore.localapi.access import NodeRights
from edgecore.localapi.server import LocalApi
from edgecore.localapi.settings import LocalApiSettings
from edgecore.pods.lookups import StoreObjects
from edgecore.pods.tokens import Tokens
from kubeapi.access import AUTHENTICATED, Attributes, User
from kubeapi.errors import ApiError
from kubeapi.http import Request
from kubeapi.kinds import CLUSTER_ROLE, CONFIG_MAP, DEPLOYMENT, NAMESPACE, POD, SERVICE_ACCOUNT
from proto import labels
from proto.kit.backoff import Rng
from proto.kit.metrics import Metrics
from tests.unit.edgecore.localapi.conftest import ANN, LocalNode, config_map, pod

RIGHTS = NodeRights("gw-1")
POD_USER = User("system:serviceaccount:default:web", ("system:serviceaccounts", AUTHENTICATED))
STRANGER = User("skerry:node-admin:gw-2", ("skerry:node-admins", AUTHENTICATED))
TEMPLATE = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def workload(**spec: object) -> dict[str, object]:
    template = {**TEMPLATE, "spec": {**TEMPLATE["spec"], **spec}}  # type: ignore[dict-item]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w"},
        "spec": {"selector": {"matchLabels": {"app": "w"}}, "template": template},
    }


@pytest.mark.parametrize(
    ("user", "verb", "group", "resource", "sub", "allowed"),
    [  # LOCAL-2, LOCAL-3
        (ANN, "list", "", "secrets", "", True),
        (ANN, "patch", "apps", "deployments", "", True),
        (ANN, "create", "", "pods", "exec", True),
        (ANN, "delete", "mill.example.com", "recipes", "", True),
        (ANN, "create", "rbac.authorization.k8s.io", "clusterroles", "", False),
        (ANN, "create", "apiextensions.k8s.io", "customresourcedefinitions", "", False),
        (ANN, "patch", "", "nodes", "", False),
        (ANN, "create", "", "namespaces", "", False),
        (ANN, "create", "", "serviceaccounts", "token", False),
        (ANN, "impersonate", "", "users", "", False),
        (STRANGER, "list", "", "pods", "", False),
        (POD_USER, "list", "", "pods", "", False),
        (POD_USER, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", True),
    ],
)
def test_the_technician_has_this_store_and_pods_have_what_the_cloud_gives(
    user: User, verb: str, group: str, resource: str, sub: str, allowed: bool
) -> None:
    assert bool(RIGHTS.allows(Attributes(user, verb, group, resource, sub, "default", "x"))) is allowed


def test_everybody_known_may_discover_and_nobody_else() -> None:  # LOCAL-1
    assert RIGHTS.allows(Attributes(POD_USER, "get", path="/apis/apps/v1"))
    assert not RIGHTS.allows(Attributes(POD_USER, "get", path="/metrics"))
    assert not RIGHTS.allows(Attributes(User("system:anonymous", ("system:unauthenticated",)), "get", path="/api"))


async def test_what_is_made_here_is_labelled_and_bound(node: LocalNode) -> None:  # LOCAL-6
    assert (await node.create(CONFIG_MAP, config_map()))["metadata"]["labels"] == {labels.NODE: "gw-1"}
    assert (await node.create(POD, pod()))["spec"]["nodeName"] == "gw-1"
    made = await node.create(DEPLOYMENT, workload())
    assert made["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "gw-1"}

    replaced = await node.patch(
        DEPLOYMENT, "w", {"metadata": {"labels": None}, "spec": {"template": {"spec": {"nodeSelector": None}}}}
    )
    assert replaced["metadata"]["labels"] == {labels.NODE: "gw-1"}
    assert replaced["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "gw-1"}


@pytest.mark.parametrize("spec", [{"nodeName": "gw-2"}, {"nodeSelector": {"kubernetes.io/hostname": "gw-2"}}])
async def test_what_names_another_node_is_refused(node: LocalNode, spec: dict[str, Any]) -> None:  # LOCAL-6
    with pytest.raises(ApiError, match="runs at node gw-1, not at gw-2"):
        await node.create(POD, pod(**spec))
    with pytest.raises(ApiError, match="not at gw-2"):
        await node.create(DEPLOYMENT, workload(**spec))


async def test_what_the_cloud_alone_decides_is_not_written_here(node: LocalNode) -> None:  # LOCAL-3
    for res in (CLUSTER_ROLE, NAMESPACE):
        with pytest.raises(ApiError, match="written in the cloud only"):
            await node.objects.create(
                res, "", {"apiVersion": res.api_version, "kind": res.kind, "metadata": {"name": "x"}}
            )
    await node.create(POD, pod())
    with pytest.raises(ApiError, match="edgecore alone writes this status"):
        await node.objects.update(POD, "default", "p", {**pod(), "status": {"phase": "Running"}}, subresource="status")
    assert len(node.sent()) == 1


async def test_a_pod_gets_its_token_here_as_it_would_in_the_cloud(node: LocalNode) -> None:
    without = await node.create(POD, pod("early"))
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": "default", "uid": "u"},
    }
    await node.cloud_says("core/serviceaccounts/default/default", account)
    assert node.store.get(SERVICE_ACCOUNT, "default", "default") is not None
    made = await node.create(POD, pod())

    (volume,) = made["spec"]["volumes"]
    assert made["spec"]["containers"][0]["volumeMounts"][0]["name"] == volume["name"]
    assert without["spec"]["automountServiceAccountToken"] is False


async def test_a_token_of_the_node_dies_with_its_pod_and_nobody_is_anonymous(node: LocalNode, tmp_path: Path) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}
    account["metadata"]["uid"] = "sa-1"  # type: ignore[index]
    await node.cloud_says("core/serviceaccounts/default/default", account)
    await node.cloud_says("core/pods/default/p", pod(uid="pod-1", nodeName="gw-1"))
    directory = DataDir(tmp_path)
    local = LocalApi.open(
        directory,
        "gw-1",
        LocalApiSettings(),
        node.store,
        node.journal,
        clock=node.clock,
        rng=Rng(1),
        metrics=Metrics(),
    )
    tokens = Tokens.open(directory, StoreObjects(node.store), node.clock)
    token = tokens.token("default", "default", (), 3600, "p", "pod-1")

    async def asked(**headers: str) -> int:
        return (await local.handle(Request("GET", "/api/v1", "", headers, b""))).status

    assert await asked(authorization=f"Bearer {token}") == 200  # LOCAL-1
    assert await asked() == 401
    assert await asked(authorization=f"Bearer {token[:-4]}AAAA") == 401
    await node.cloud_says("core/pods/default/p", pod(uid="pod-2", nodeName="gw-1"))
    assert await asked(authorization=f"Bearer {token}") == 401
    await node.cloud_says("core/pods/default/p", None)
    assert await asked(authorization=f"Bearer {token}") == 401
