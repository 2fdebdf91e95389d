"""Other people's Python clients as peers of the embedded API: lightkube and kubernetes_asyncio, both strict about types."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes_asyncio as ka
import pytest
import yaml
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.core_v1 import Container, PodSpec, ServicePort, ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount
from lightkube.resources.rbac_authorization_v1 import ClusterRole
from lightkube.types import CascadeType, PatchType

from tests.kit.api import ServingApi, serving_api
from tests.kit.wait import eventually

CRD = yaml.safe_load(
    (Path(__file__).parent / "kubectl" / "manifests" / "crd.yaml").read_text().replace("@NS@", "peers")
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ServingApi]:
    async with serving_api(tmp_path) as serving:
        yield serving


@pytest.fixture
async def light(api: ServingApi) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(config=KubeConfig.from_file(str(api.kubeconfig())), namespace="default", field_manager="peer")
    yield client
    await client.close()


@pytest.fixture
async def official(api: ServingApi) -> AsyncIterator[Any]:
    configuration = ka.client.Configuration()
    await ka.config.load_kube_config(str(api.kubeconfig()), client_configuration=configuration)
    async with ka.client.ApiClient(configuration) as client:
        yield client


async def test_lightkube_creates_reads_changes_and_deletes(light: AsyncClient) -> None:
    made = await light.create(ConfigMap(metadata=ObjectMeta(name="a", labels={"app": "x"}), data={"k": "1"}))
    assert made.metadata.resourceVersion
    changed = await light.patch(ConfigMap, "a", {"data": {"k": "2"}}, patch_type=PatchType.MERGE)
    assert changed.data == {"k": "2"}
    found = [item async for item in light.list(ConfigMap, labels={"app": "x"})]
    assert [item.metadata.name for item in found] == ["a"]
    await light.delete(ConfigMap, "a")
    with pytest.raises(ApiError) as refused:
        await light.get(ConfigMap, "a")
    assert refused.value.status.reason == "NotFound"


async def test_lightkube_reads_every_built_in_kind_without_a_missing_field(light: AsyncClient) -> None:
    await light.create(Node(metadata=ObjectMeta(name="n")))
    await light.create(Pod(metadata=ObjectMeta(name="p"), spec=PodSpec(containers=[Container(name="c", image="i")])))
    await light.create(Service(metadata=ObjectMeta(name="s"), spec=ServiceSpec(ports=[ServicePort(port=80)])))
    await light.create(ServiceAccount(metadata=ObjectMeta(name="robot")))
    for kind in (Node, Namespace, ClusterRole):
        assert [item async for item in light.list(kind)]
    for kind in (Pod, Service, ServiceAccount, Secret, Event):
        assert isinstance([item async for item in light.list(kind, namespace="*")], list)


async def test_lightkube_applies_server_side_and_sees_conflicts(light: AsyncClient) -> None:
    wanted = ConfigMap(apiVersion="v1", kind="ConfigMap", metadata=ObjectMeta(name="a"), data={"k": "1"})
    await light.apply(wanted)
    wanted.data = {"k": "2"}
    with pytest.raises(ApiError) as refused:
        await light.apply(wanted, field_manager="other")
    assert refused.value.status.code == 409
    assert (await light.apply(wanted, field_manager="other", force=True)).data == {"k": "2"}


async def test_lightkube_watches_from_a_list(light: AsyncClient) -> None:
    seen: list[tuple[str, str]] = []

    async def follow() -> None:
        async for kind, item in light.watch(ConfigMap, namespace="default", labels={"peer": "lightkube"}):
            seen.append((kind, item.metadata.name))
            if kind == "DELETED":
                return

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(follow())
        await light.create(ConfigMap(metadata=ObjectMeta(name="w", labels={"peer": "lightkube"})))
        await eventually(lambda: bool(seen))
        await light.patch(ConfigMap, "w", {"data": {"k": "2"}}, patch_type=PatchType.MERGE)
        await light.delete(ConfigMap, "w")
    assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")]


async def test_lightkube_uses_a_custom_resource_and_its_status(light: AsyncClient) -> None:
    await light.create(CustomResourceDefinition.from_dict(CRD))
    await light.wait(CustomResourceDefinition, "widgets.peers.example.com", for_conditions=["Established"])
    widget = create_namespaced_resource("peers.example.com", "v1", "Widget", "widgets")
    await light.create(widget(metadata=ObjectMeta(name="one"), spec={"color": "red"}))
    changed = await light.patch(widget.Status, "one", {"status": {"replicas": 3}}, patch_type=PatchType.MERGE)
    assert changed.status == {"replicas": 3}
    with pytest.raises(ApiError) as refused:
        await light.create(widget(metadata=ObjectMeta(name="two"), spec={"color": "purple"}))
    assert refused.value.status.reason == "Invalid"
    await light.delete(widget, "one", cascade=CascadeType.FOREGROUND)


async def test_kubernetes_asyncio_creates_reads_changes_and_deletes(official: Any) -> None:
    core = ka.client.CoreV1Api(official)
    labels = {"peer": "asyncio"}
    body = ka.client.V1ConfigMap(metadata=ka.client.V1ObjectMeta(name="a", labels=labels), data={"k": "1"})
    await core.create_namespaced_config_map("default", body)
    changed = await core.patch_namespaced_config_map("a", "default", {"data": {"k": "2"}})
    assert changed.data == {"k": "2"}
    listed = await core.list_namespaced_config_map("default", label_selector="peer=asyncio")
    assert [i.metadata.name for i in listed.items] == ["a"]
    assert (await core.delete_namespaced_config_map("a", "default")).status == "Success"
    with pytest.raises(ka.client.ApiException) as refused:
        await core.read_namespaced_config_map("a", "default")
    assert refused.value.status == 404


async def test_kubernetes_asyncio_reads_nodes_pods_and_services(official: Any) -> None:
    core = ka.client.CoreV1Api(official)
    meta = ka.client.V1ObjectMeta
    await core.create_node(ka.client.V1Node(metadata=meta(name="n")))
    container = ka.client.V1Container(name="c", image="i")
    await core.create_namespaced_pod(
        "default", ka.client.V1Pod(metadata=meta(name="p"), spec=ka.client.V1PodSpec(containers=[container]))
    )
    spec = ka.client.V1ServiceSpec(ports=[ka.client.V1ServicePort(port=80)])
    await core.create_namespaced_service("default", ka.client.V1Service(metadata=meta(name="s"), spec=spec))
    assert (await core.list_node()).items[0].status.node_info.kubelet_version == ""
    assert (await core.list_pod_for_all_namespaces()).items[0].status.phase == "Pending"
    assert (await core.delete_namespaced_pod("p", "default")).metadata.name == "p"
    assert (await core.delete_namespaced_service("s", "default")).metadata.name == "s"


async def test_kubernetes_asyncio_watches(official: Any) -> None:
    core = ka.client.CoreV1Api(official)
    seen: list[str] = []
    async with asyncio.timeout(20), ka.watch.Watch() as watch:
        revision = (await core.list_namespaced_config_map("default")).metadata.resource_version
        for name in ("a", "b"):
            body = ka.client.V1ConfigMap(metadata=ka.client.V1ObjectMeta(name=name))
            await core.create_namespaced_config_map("default", body)
        stream = watch.stream(core.list_namespaced_config_map, "default", resource_version=revision, timeout_seconds=5)
        async for event in stream:
            seen.append(f"{event['type']} {event['object'].metadata.name}")
            if len(seen) == 2:
                break
    assert seen == ["ADDED a", "ADDED b"]


async def test_kubernetes_asyncio_asks_for_its_rights(official: Any) -> None:
    attributes = ka.client.V1ResourceAttributes(verb="create", resource="pods", namespace="default")
    spec = ka.client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    review = ka.client.V1SelfSubjectAccessReview(spec=spec)
    answer = await ka.client.AuthorizationV1Api(official).create_self_subject_access_review(review)
    assert answer.status.allowed is True


async def test_kubernetes_asyncio_discovers_and_uses_a_custom_resource(official: Any) -> None:
    await ka.client.ApiextensionsV1Api(official).create_custom_resource_definition(CRD)
    custom = ka.client.CustomObjectsApi(official)
    where = ("peers.example.com", "v1", "default", "widgets")
    body = {
        "apiVersion": "peers.example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "one"},
        "spec": {"color": "red"},
    }
    made = await custom.create_namespaced_custom_object(*where, body)
    assert made["spec"] == {"color": "red", "replicas": 1}
    listed = await custom.list_namespaced_custom_object(*where)
    assert listed["kind"] == "WidgetList"
    version = await ka.client.VersionApi(official).get_code()
    assert version.git_version.startswith("v1.33.")
