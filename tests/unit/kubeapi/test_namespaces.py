import pytest

from kubeapi.errors import ApiError
from kubeapi.kinds import CUSTOM_RESOURCE_DEFINITION as CRD
from kubeapi.kinds import SERVICE_ACCOUNT
from tests.unit.kubeapi.api import CM, NS, SECRET, Api, config_map
from tests.unit.kubeapi.test_crds import served


@pytest.fixture
async def running(api: Api) -> Api:
    await api.controllers.start()
    await api.controllers.settle()
    return api


async def test_the_permanent_namespaces_exist_with_their_accounts(running: Api) -> None:
    assert running.names(NS) == ["default", "kube-node-lease", "kube-public", "kube-system"]
    accounts = running.objects.list(SERVICE_ACCOUNT, "kube-system").items
    assert [a["metadata"]["name"] for a in accounts] == ["default"]
    with pytest.raises(ApiError, match="may not be deleted"):
        await running.objects.delete(NS, "", "default")


async def test_a_deleted_namespace_is_emptied_and_goes(running: Api) -> None:
    made = await running.create(NS, {"metadata": {"name": "shop"}})
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "shop"}
    await running.create(CM, config_map("a"), "shop")
    await running.create(SECRET, {"metadata": {"name": "held", "finalizers": ["skerry.io/hold"]}}, "shop")

    marked = await running.objects.delete(NS, "", "shop")
    await running.controllers.settle()
    assert marked["status"]["phase"] == "Terminating"
    assert "shop" in running.names(NS)
    assert running.objects.list(CM, "shop").items == []
    told = running.objects.get(NS, "", "shop")["status"]["conditions"]
    assert [(c["type"], c["message"]) for c in told] == [
        ("NamespaceContentRemaining", "Some resources are remaining: secrets. has 1 resource instances"),
        (
            "NamespaceFinalizersRemaining",
            "Some content in the namespace has finalizers remaining: skerry.io/hold in 1 resource instances",
        ),
    ]

    await running.objects.patch(
        SECRET, "shop", "held", b'{"metadata":{"finalizers":null}}', "application/merge-patch+json"
    )
    await running.controllers.settle()
    assert "shop" not in running.names(NS)


async def test_a_deleted_crd_takes_its_objects_with_it(running: Api) -> None:
    res = await served(running)
    await running.create(res, {"metadata": {"name": "k"}, "spec": {"size": 1}})

    await running.objects.delete(CRD, "", "kilns.example.io")
    await running.controllers.settle()

    assert running.names(CRD) == []
    assert running.store.count(res) == 0
