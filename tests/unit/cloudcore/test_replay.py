"""Writes of nodes, made again: whose they are, what they concern, and what the cloud has changed since."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from cloudcore.hub import replay as replay_room
from cloudcore.hub import write_outcomes
from cloudcore.hub.replay import CONFLICTS, Replay
from cloudcore.hub.write_outcomes import Outcomes
from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import (
    CONFIG_MAP,
    CRON_JOB,
    DEPLOYMENT,
    DEVICE,
    EDGE_APPLICATION,
    EVENT,
    JOB,
    NODE_GROUP,
    POD,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)
from cloudcore.kube.resources import NODE as NODE_KIND
from cloudcore.tables import WriteOutcome
from proto import labels, writes
from proto.kit.errors import MalformedMessage, StorageFull
from proto.link.replica import MessageRow
from proto.writes import Write, WriteResult, admin_of
from tests.kit.cloud import Cloud, running
from tests.kit.wait import eventually

NODE = "gw-1"
KEY = CONFIG_MAP.key("default", "a")
Json = dict[str, Any]


class Desk:
    """Where a node's writes arrive; ``answers`` is what it is told."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.answers: list[WriteResult] = []
        self.full = False
        self.seq = 0
        self.outcomes = Outcomes(cloud.sql)
        self.replay = Replay(
            cloud.client, cloud.hub.scope, self.outcomes, self.send, lambda: cloud.hub.effects, metrics=cloud.metrics
        )

    async def send(self, node: str, kind: str, body: bytes) -> None:
        assert (node, kind) == (NODE, writes.RESULT)
        if self.full:
            raise StorageFull("too many answers wait")
        self.answers.append(writes.decode_result(body))

    def write(self, verb: str, key: str = KEY, **more: Any) -> Write:
        self.seq += 1
        given = {"api_version": "v1", "kind": "ConfigMap", "user": admin_of(NODE), "at": "2026-01-01T00:00:00Z", **more}
        return Write(self.seq, "disk1", key, verb=verb, **given)

    async def carry(self, write: Write) -> WriteResult:
        await self.replay.carry(NODE, MessageRow(1, writes.KIND, writes.encode(write)), {})
        return self.answers[-1]

    async def get(self, kind: Kind, name: str) -> Json | None:
        try:
            return await self.cloud.client.get(kind, "default", name)
        except NotFound:
            return None

    async def make(self, name: str = "a", node: str = NODE, **data: str) -> Json:
        return await self.cloud.client.create(CONFIG_MAP, "default", config_map(name, node, **data))

    async def kept(self) -> list[Json]:
        return [item["spec"] for item in (await self.cloud.client.list(CONFLICTS))["items"]]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with running(tmp_path) as cloud:
        yield Desk(cloud)


def config_map(name: str = "a", node: str = NODE, **data: str) -> Json:
    metadata = {"name": name, "namespace": "default", "labels": {labels.NODE: node}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def pod(node: str = NODE, **spec: Any) -> Json:
    metadata = {"name": "p", "namespace": "default", "labels": {labels.NODE: NODE}}
    spec = {
        "nodeName": node,
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "i"}],
        **spec,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def owned(obj: Json, kind: Kind, name: str) -> Json:
    ref = {"apiVersion": kind.api_version, "kind": kind.kind, "name": name, "uid": "u"}
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": [ref]}}


async def register(desk: Desk, node: str) -> None:
    edge = {"name": node, "labels": {labels.EDGE_ROLE: ""}}
    await desk.cloud.client.create(NODE_KIND, "", {"apiVersion": "v1", "kind": "Node", "metadata": edge})
    await eventually(lambda: desk.cloud.cluster.nodes.get("", node))


async def test_a_creation_is_made_once_however_often_it_comes(desk: Desk) -> None:  # LOCAL-10
    write = desk.write("create", mine=config_map(x="1"), uid="local-1")
    first = await desk.carry(write)
    await desk.cloud.client.delete(CONFIG_MAP, "default", "a")

    again = await desk.carry(write)

    assert (first.outcome, again) == ("applied", first)
    assert await desk.get(CONFIG_MAP, "a") is None


async def test_a_crash_between_the_write_and_its_outcome_makes_no_second_write(desk: Desk) -> None:  # LOCAL-10
    await desk.make(x="1")
    write = desk.write("patch", mine={"data": {"x": "2"}}, base={"data": {"x": "1"}})
    await desk.replay._result(NODE, write)  # and here the process ends
    patch = {"data": {"x": "office"}}
    await desk.cloud.client.patch(CONFIG_MAP, "default", "a", patch, content_type="application/merge-patch+json")

    answer = await desk.carry(write)

    assert answer.outcome == "applied"
    assert (await desk.get(CONFIG_MAP, "a") or {})["data"] == {"x": "office"}


async def test_other_fields_are_merged_and_the_same_field_is_a_conflict(desk: Desk) -> None:  # LOCAL-11
    await desk.make(x="1", y="office")
    good = await desk.carry(desk.write("patch", mine={"data": {"x": "2"}}, base={"data": {"x": "1"}}))
    bad = await desk.carry(desk.write("patch", mine={"data": {"y": "mine"}}, base={"data": {"y": "1"}}))

    assert (good.outcome, bad.outcome, bad.reason) == ("applied", "conflict", "FieldChanged")
    assert "data.y" in bad.message
    assert (await desk.get(CONFIG_MAP, "a") or {})["data"] == {"x": "2", "y": "office"}
    (spec,) = await desk.kept()
    assert (spec["mine"], spec["theirs"]["data"]["y"]) == ({"data": {"y": "mine"}}, "office")

    async def told() -> list[str]:
        return [item["reason"] for item in (await desk.cloud.client.list(EVENT))["items"]]

    await eventually(lambda: _has(told, "WriteConflict"))


async def _has(told: Any, reason: str) -> bool:
    return reason in await told()


async def test_deletions_and_creations_that_met_something_else_are_conflicts(desk: Desk) -> None:  # LOCAL-11
    held = await desk.make(x="office")
    uid = held["metadata"]["uid"]
    results = [
        await desk.carry(desk.write("create", mine=config_map(x="mine"))),
        await desk.carry(desk.write("delete", uid=uid, base={"data": {"x": "1"}})),
        await desk.carry(desk.write("patch", uid="another", mine={"data": {"x": "2"}}, base={"data": {"x": "office"}})),
        await desk.carry(desk.write("patch", CONFIG_MAP.key("default", "gone"), mine={"data": {"x": "2"}})),
    ]
    assert [result.reason for result in results] == ["AlreadyExists", "Changed", "Replaced", "Deleted"]
    assert (await desk.get(CONFIG_MAP, "a") or {})["data"] == {"x": "office"}
    assert len(await desk.kept()) == 4

    assert (await desk.carry(desk.write("delete", uid=uid, base={"data": {"x": "office"}}))).outcome == "applied"
    assert await desk.get(CONFIG_MAP, "a") is None


async def test_both_sides_made_the_same_thing_and_nobody_minds(desk: Desk) -> None:
    await desk.make(x="1")
    assert (await desk.carry(desk.write("create", mine=config_map(x="1")))).outcome == "applied"


async def test_later_writes_of_an_object_made_here_find_it_by_the_uid_of_the_node(desk: Desk) -> None:
    await desk.carry(desk.write("create", mine=config_map(x="1"), uid="local-1"))
    change = desk.write("patch", uid="local-1", mine={"data": {"x": "2"}}, base={"data": {"x": "1"}})
    assert (await desk.carry(change)).outcome == "applied"
    owned = config_map("b")
    owned["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "local-1"}]
    made = await desk.carry(desk.write("create", CONFIG_MAP.key("default", "b"), mine=owned))

    owner = (await desk.get(CONFIG_MAP, "a") or {})["metadata"]["uid"]
    assert made.object is not None
    assert made.object["metadata"]["ownerReferences"][0]["uid"] == owner != "local-1"


@pytest.mark.parametrize("user", ["system:admin", "skerry:node-admin:gw-2", "system:serviceaccount:kube-system:root"])
async def test_a_node_speaks_for_nobody_elses_users(desk: Desk, user: str) -> None:  # LOCAL-12
    answer = await desk.carry(desk.write("create", mine=config_map(), user=user))
    assert (answer.outcome, answer.reason) == ("refused", "UnknownUser")
    assert await desk.get(CONFIG_MAP, "a") is None


async def test_a_pods_account_writes_with_the_rights_that_it_has_in_the_cloud(desk: Desk) -> None:  # LOCAL-12
    client = desk.cloud.client
    await register(desk, NODE)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "default"}}
    await client.create(SERVICE_ACCOUNT, "default", account)
    await client.create(POD, "default", pod(serviceAccountName="web", automountServiceAccountToken=True))
    await eventually(lambda: desk.cloud.hub.scope.holds(NODE, SERVICE_ACCOUNT.key("default", "web")))
    await desk.make(x="1")
    user = "system:serviceaccount:default:web"
    change: Json = {"user": user, "mine": {"data": {"x": "2"}}, "base": {"data": {"x": "1"}}}
    assert (await desk.carry(desk.write("patch", **change))).reason == "Forbidden"

    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["update"]}
    metadata = {"name": "web", "namespace": "default"}
    await client.create(
        ROLE, "default", {"apiVersion": ROLE.api_version, "kind": "Role", "metadata": metadata, "rules": [rule]}
    )
    binding = {"apiVersion": ROLE.api_version, "kind": "RoleBinding", "metadata": metadata}
    ref = {"apiGroup": ROLE.group, "kind": "Role", "name": "web"}
    subjects = [{"kind": "ServiceAccount", "name": "web", "namespace": "default"}]
    await client.create(ROLE_BINDING, "default", {**binding, "roleRef": ref, "subjects": subjects})
    assert (await desk.carry(desk.write("patch", **change))).outcome == "applied"


async def test_what_the_user_may_not_do_in_the_cloud_is_refused(desk: Desk) -> None:  # LOCAL-12
    secret = {**config_map("s"), "kind": "Secret", "data": {"a": "aGk="}}
    answer = await desk.carry(desk.write("create", SECRET.key("default", "s"), kind="Secret", mine=secret))
    assert (answer.outcome, answer.reason) == ("refused", "Forbidden")
    (spec,) = await desk.kept()
    assert spec["mine"]["data"] == {"a": "(secret)"}


async def test_objects_of_other_nodes_are_neither_changed_nor_shown(desk: Desk) -> None:  # LOCAL-12
    held = await desk.make(node="gw-2", password="hush")
    uid = held["metadata"]["uid"]
    for write in (
        desk.write("patch", uid=uid, mine={"data": {"x": "1"}}),
        desk.write("delete", uid=uid),
        desk.write("create", mine=config_map(x="1")),
    ):
        answer = await desk.carry(write)
        assert (answer.outcome != "applied", answer.object) == (True, None)
    assert (await desk.get(CONFIG_MAP, "a") or {})["data"] == {"password": "hush"}
    assert "hush" not in str(await desk.kept())


async def test_a_workload_of_several_nodes_is_not_one_technicians_to_change(desk: Desk) -> None:  # LOCAL-12
    containers = [{"name": "c", "image": "i"}]
    template: Json = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": containers}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "w"}}, "template": template}
    metadata = {"name": "w", "namespace": "default", "labels": {labels.NODE: NODE}}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    await desk.cloud.client.create(DEPLOYMENT, "default", body)
    given: Json = {"key": DEPLOYMENT.key("default", "w"), "kind": "Deployment", "api_version": "apps/v1"}
    change: Json = {"mine": {"spec": {"replicas": 3}}, "base": {"spec": {"replicas": 0}}}

    for write in (desk.write("patch", **given, **change), desk.write("delete", **given)):
        answer = await desk.carry(write)
        assert (answer.outcome, answer.reason) == ("refused", "SharedWorkload")

    bound = {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": NODE}}}}}
    await desk.cloud.client.patch(DEPLOYMENT, "default", "w", bound, content_type="application/merge-patch+json")
    assert (await desk.carry(desk.write("patch", **given, **change))).outcome == "applied"


async def test_a_creation_without_the_nodes_label_is_refused(desk: Desk) -> None:  # LOCAL-6, LOCAL-12
    answer = await desk.carry(desk.write("create", mine=config_map(node="gw-2")))
    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode")


@pytest.mark.parametrize(
    "made",
    [
        pod(node="gw-2"),
        pod(nodeName="", nodeSelector={}),
        pod(volumes=[{"name": "v", "secret": {"secretName": "master"}}]),
        pod(serviceAccountName="root"),
        pod(imagePullSecrets=[{"name": "master"}]),
        pod(volumes=[{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "master"}}}]),
        pod(initContainers=[{"name": "i", "image": "i", "envFrom": [{"secretRef": {"name": "master"}}]}]),
        owned(pod(), JOB, "at-gw-2"),
        owned(pod(nodeName=None, nodeSelector={"kubernetes.io/hostname": NODE}), JOB, "at-gw-2"),
    ],
)
async def test_a_pod_made_at_a_node_runs_there_and_reads_what_is_there(desk: Desk, made: Json) -> None:  # LOCAL-12
    client = desk.cloud.client
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "master", "namespace": "default"}}
    await client.create(SECRET, "default", secret)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "root", "namespace": "default"}}
    await client.create(SERVICE_ACCOUNT, "default", account)

    answer = await desk.carry(desk.write("create", POD.key("default", "p"), kind="Pod", mine=made))

    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode"), answer
    assert await desk.get(POD, "p") is None


async def test_a_pod_made_at_a_node_may_read_what_was_made_there(desk: Desk) -> None:  # LOCAL-12
    await desk.carry(desk.write("create", mine=config_map(x="1")))
    made = pod(volumes=[{"name": "v", "configMap": {"name": "a"}}])
    answer = await desk.carry(desk.write("create", POD.key("default", "p"), kind="Pod", mine=made))
    assert answer.outcome == "applied", answer


async def test_a_debug_container_reads_only_what_is_there(desk: Desk) -> None:  # LOCAL-12
    await desk.cloud.client.create(POD, "default", pod())
    added = [
        {"name": "d", "image": "i", "env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
    ]
    change: Json = {"mine": {"spec": {"ephemeralContainers": added}}, "base": {"spec": {"ephemeralContainers": None}}}
    write = desk.write("patch", POD.key("default", "p"), kind="Pod", subresource="ephemeralcontainers", **change)
    answer = await desk.carry(write)
    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode")


async def test_a_pod_brings_no_pull_secrets_of_a_namespace_that_is_not_at_the_node(desk: Desk) -> None:  # LOCAL-12
    given = {"imagePullSecrets": [{"name": "registry"}]}
    await desk.cloud.client.patch(SERVICE_ACCOUNT, "default", "default", given, content_type=MERGE_PATCH)
    answer = await desk.carry(desk.write("create", POD.key("default", "p"), kind="Pod", mine=pod()))
    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode")


@pytest.mark.parametrize("change", [{"kind": "ConfigMap"}, {"kind": "Pod", "mine": {**pod(node="gw-2"), "kind": ""}}])
async def test_a_pod_is_one_by_whatever_name_it_comes(desk: Desk, change: Json) -> None:  # LOCAL-12
    answer = await desk.carry(desk.write("create", POD.key("default", "p"), **{"mine": pod(node="gw-2"), **change}))
    assert (answer.outcome, answer.reason) == ("refused", "Malformed")


async def allow(desk: Desk, group: str, plural: str, *verbs: str) -> str:
    """Let the account of a pod at the node do more, and return its user."""
    client = desk.cloud.client
    await register(desk, NODE)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "default"}}
    await client.create(SERVICE_ACCOUNT, "default", account)
    rules = [{"apiGroups": [group], "resources": [plural], "verbs": list(verbs)}]
    metadata = {"name": "app", "namespace": "default"}
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    await client.create(ROLE, "default", role)
    bind = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "app"},
        "subjects": [{"kind": "ServiceAccount", "name": "app", "namespace": "default"}],
    }
    await client.create(ROLE_BINDING, "default", bind)
    running_pod = pod(serviceAccountName="app")
    running_pod["metadata"]["name"] = "app"
    await client.create(POD, "default", running_pod)
    await eventually(lambda: desk.cloud.hub.scope.holds(NODE, SERVICE_ACCOUNT.key("default", "app")))
    return "system:serviceaccount:default:app"


async def test_a_node_gives_an_account_no_secrets_to_pull_with(desk: Desk) -> None:  # LOCAL-12
    user = await allow(desk, "", "serviceaccounts", "patch")
    change: Json = {"mine": {"imagePullSecrets": [{"name": "master"}]}, "base": {"imagePullSecrets": None}}
    key = SERVICE_ACCOUNT.key("default", "app")
    answer = await desk.carry(desk.write("patch", key, kind="ServiceAccount", user=user, **change))
    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode")


async def test_no_right_is_given_through_a_node(desk: Desk) -> None:  # LOCAL-12
    user = await allow(desk, "rbac.authorization.k8s.io", "roles", "*")
    version = "rbac.authorization.k8s.io/v1"
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    mine = {**config_map(), "apiVersion": version, "kind": "Role", "rules": rules}
    mine.pop("data")
    write = desk.write("create", ROLE.key("default", "a"), api_version=version, kind="Role", user=user, mine=mine)
    answer = await desk.carry(write)
    assert (answer.outcome, answer.reason) == ("refused", "CloudOnly")


@pytest.mark.parametrize("kind", [EDGE_APPLICATION, NODE_GROUP])
async def test_what_places_workloads_on_nodes_is_not_written_through_one(desk: Desk, kind: Kind) -> None:  # LOCAL-12
    user = await allow(desk, kind.group, kind.plural, "*")
    mine = {**config_map(), "apiVersion": kind.api_version, "kind": kind.kind, "spec": {}}
    if not kind.namespaced:
        del mine["metadata"]["namespace"]
    key = kind.key("default" if kind.namespaced else "", "a")
    write = desk.write("create", key, api_version=kind.api_version, kind=kind.kind, user=user, mine=mine)
    answer = await desk.carry(write)
    assert (answer.outcome, answer.reason) == ("refused", "CloudOnly")


async def test_a_service_made_at_a_node_takes_no_address_of_the_cluster_s(desk: Desk) -> None:  # LOCAL-12
    mine = {**config_map("s"), "kind": "Service", "spec": {"ports": [{"port": 53}], "externalIPs": ["192.0.2.53"]}}
    mine.pop("data")
    key = SERVICE.key("default", "s")
    answer = await desk.carry(desk.write("create", key, kind="Service", mine=mine))
    assert (answer.outcome, answer.reason) == ("refused", "CloudOnly")

    mine["spec"] = {"ports": [{"port": 53}]}
    answer = await desk.carry(desk.write("create", key, kind="Service", mine=mine))
    assert answer.outcome == "applied", answer

    change: Json = {"mine": {"spec": {"externalIPs": ["192.0.2.53"]}}, "base": {"spec": {"externalIPs": None}}}
    answer = await desk.carry(desk.write("patch", key, kind="Service", **change))
    assert (answer.outcome, answer.reason) == ("refused", "CloudOnly")


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("networking.k8s.io", "Ingress"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("policy", "PodDisruptionBudget"),
    ],
)
async def test_a_technician_makes_nothing_by_which_others_than_the_node_are_reached(
    desk: Desk, group: str, kind: str
) -> None:  # LOCAL-12
    version, stem = f"{group}/v{2 if group == 'autoscaling' else 1}", kind.lower()
    plural = {"ingress": "ingresses", "networkpolicy": "networkpolicies"}.get(stem, f"{stem}s")
    mine = {**config_map(), "apiVersion": version, "kind": kind, "spec": {}}
    mine.pop("data")
    key = f"{group}/{plural}/default/a"
    answer = await desk.carry(desk.write("create", key, api_version=version, kind=kind, mine=mine))
    assert (answer.outcome, answer.reason) == ("refused", "Forbidden")


async def test_a_secret_made_at_a_node_is_nobodys_credential(desk: Desk) -> None:  # LOCAL-12
    user = await allow(desk, "", "secrets", "create")
    mine = {**config_map("s"), "kind": "Secret", "type": "kubernetes.io/service-account-token"}
    mine["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "root"}
    write = desk.write("create", SECRET.key("default", "s"), kind="Secret", user=user, mine=mine)
    answer = await desk.carry(write)
    assert (answer.outcome, answer.reason) == ("refused", "CloudOnly")


async def test_what_other_nodes_read_too_is_not_one_technicians_to_change(desk: Desk) -> None:  # LOCAL-12
    shared = config_map(x="1")
    del shared["metadata"]["labels"]
    await desk.cloud.client.create(CONFIG_MAP, "default", shared)
    for name, node in (("one", NODE), ("two", "gw-2")):
        await register(desk, node)
        reader = pod(node=node, volumes=[{"name": "v", "configMap": {"name": "a"}}])
        reader["metadata"]["name"] = name
        await desk.cloud.client.create(POD, "default", reader)
    scope = desk.cloud.hub.scope
    await eventually(lambda: scope.holders(KEY) == {NODE, "gw-2"})
    change: Json = {"mine": {"data": {"x": "2"}}, "base": {"data": {"x": "1"}}}

    answer = await desk.carry(desk.write("patch", **change))
    assert (answer.outcome, answer.reason) == ("refused", "SharedWorkload")

    await desk.cloud.client.delete(POD, "default", "two", grace_s=0)
    await eventually(lambda: not scope.holds("gw-2", KEY))
    assert (await desk.carry(desk.write("patch", **change))).outcome == "applied"


async def test_a_node_sends_nothing_to_another_one_by_its_label(desk: Desk) -> None:  # LOCAL-12
    await desk.make(x="1")
    mine, base = ({"metadata": {"labels": {labels.NODE: node}}} for node in ("gw-2", NODE))
    answer = await desk.carry(desk.write("patch", mine=mine, base=base))
    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode")


async def test_a_device_made_at_a_node_stays_there(desk: Desk) -> None:  # LOCAL-12
    metadata = config_map("d")["metadata"]
    mine = {"apiVersion": DEVICE.api_version, "kind": "Device", "metadata": metadata, "spec": {"nodeName": "gw-2"}}
    given = {"api_version": DEVICE.api_version, "kind": "Device", "mine": mine}
    answer = await desk.carry(desk.write("create", DEVICE.key("default", "d"), **given))
    assert (answer.outcome, answer.reason) == ("refused", "OutsideNode")


async def test_what_an_api_server_says_of_an_object_is_not_taken_from_a_node(desk: Desk) -> None:
    mine = config_map(x="1")
    mine["metadata"] |= {"resourceVersion": "7", "uid": "u", "generation": 9}
    answer = await desk.carry(desk.write("create", mine=mine))
    assert answer.object
    assert (answer.outcome, answer.object["metadata"]["uid"] != "u") == ("applied", True)


async def test_a_node_that_takes_no_answers_holds_up_nobody(desk: Desk) -> None:
    desk.full = True
    write = desk.write("create", mine=config_map(x="1"))
    await desk.replay.carry(NODE, MessageRow(1, writes.KIND, writes.encode(write)), {})
    desk.full = False
    assert (await desk.carry(write)).outcome == "applied"


@pytest.mark.parametrize(
    "broken",
    [
        {"verb": "merge"},
        {"verb": "patch", "subresource": "exec"},
        {"verb": "create", "mine": config_map("other")},
        {"verb": "patch", "api_version": "apps/v1"},
    ],
)
async def test_a_write_that_no_api_server_takes_is_refused_and_kept(desk: Desk, broken: Json) -> None:
    answer = await desk.carry(desk.write(**broken))
    assert (answer.outcome, answer.reason) == ("refused", "Malformed")
    assert len(await desk.kept()) == 1 or broken["verb"] == "merge"  # the definition knows no other verb


async def test_a_secret_by_another_name_is_hidden_all_the_same(desk: Desk) -> None:
    mine = {**config_map("s"), "kind": "Thing", "data": {"a": "aHVzaA=="}}
    answer = await desk.carry(desk.write("create", SECRET.key("default", "s"), kind="Thing", mine=mine))
    assert answer.reason == "Malformed"
    assert "aHVzaA==" not in str(await desk.kept())


async def test_a_node_fills_the_api_with_so_many_conflicts_and_no_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_room, "MAX_CONFLICTS", 2)
    for number in range(4):
        answer = await desk.carry(desk.write("create", mine=config_map(node="gw-2")))
        wanted = min(number + 1, 2)
        await eventually(lambda wanted=wanted: desk.cloud.hub.scope.count(NODE, CONFLICTS) == wanted)  # type: ignore[misc]
    assert len(await desk.kept()) == 2
    assert (answer.outcome, answer.conflict) == ("refused", "")
    assert "kept at the node only" in answer.message


async def test_answers_are_kept_for_so_many_writes_and_disks_and_no_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_outcomes, "KEEP", 5)
    monkeypatch.setattr(write_outcomes, "PRUNE_EVERY", 3)
    result = WriteResult(1, KEY, "applied")
    for number in range(1, 31):
        write = Write(7 * number + 1, f"disk{number // 6}", KEY, "v1", "ConfigMap", "delete", "u", "t")
        await desk.outcomes.keep(NODE, write, result)
    count = select(func.count()).select_from(WriteOutcome.__table__)  # type: ignore[attr-defined]
    assert int(await desk.cloud.sql.read(lambda conn: conn.execute(count).scalar() or 0)) <= 4 * 6
    assert await desk.outcomes.find(NODE, write) is not None


async def test_what_is_no_write_at_all_is_dropped(desk: Desk) -> None:
    with pytest.raises(MalformedMessage):
        await desk.replay.carry(NODE, MessageRow(1, writes.KIND, b'{"seq": "x"}'), {})


RUN_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
PINNED = {
    "restartPolicy": "Never",
    "nodeSelector": {"kubernetes.io/hostname": NODE},
    "containers": [{"name": "c", "image": "i"}],
}


async def cron(desk: Desk) -> Json:
    """A CronJob that only this node can run."""
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {"spec": PINNED}}}}
    body = {"apiVersion": CRON_JOB.api_version, "kind": "CronJob", "metadata": {"name": "tick"}, "spec": spec}
    made = await desk.cloud.client.create(CRON_JOB, "default", body)
    await eventually(lambda: desk.cloud.hub.scope.holds(NODE, CRON_JOB.key("default", "tick")))
    return made


def run_of(made: Json, at: str = "2026-01-01T00:00:00Z") -> Json:
    owner = {"apiVersion": CRON_JOB.api_version, "kind": "CronJob", "name": "tick", "uid": made["metadata"]["uid"]}
    metadata = {
        "name": "tick-1",
        "namespace": "default",
        "labels": {labels.NODE: NODE},
        "annotations": {RUN_AT: at},
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
    }
    spec = {"template": {"metadata": {"labels": {}}, "spec": PINNED}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def fired(desk: Desk, job: Json) -> Write:
    return desk.write("create", JOB.key("default", "tick-1"), kind="Job", api_version="batch/v1", mine=job)


async def test_a_run_that_was_made_at_a_node_is_made_in_the_cloud_as_its_cron_jobs(desk: Desk) -> None:  # LOCAL-17
    await register(desk, NODE)
    made = await cron(desk)

    answer = await desk.carry(fired(desk, run_of(made)))

    found = await desk.get(JOB, "tick-1")
    assert (answer.outcome, answer.message) == ("applied", "")
    assert found is not None
    assert found["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert found["spec"]["selector"]


async def test_a_run_that_both_sides_made_is_one_run_and_another_of_that_name_is_a_conflict(desk: Desk) -> None:
    await register(desk, NODE)  # LOCAL-17
    made = await cron(desk)
    theirs = run_of(made)
    theirs["spec"]["template"]["spec"] = {**PINNED, "containers": [{"name": "c", "image": "newer"}]}
    await desk.cloud.client.create(JOB, "default", theirs)
    await eventually(lambda: desk.cloud.hub.scope.holds(NODE, JOB.key("default", "tick-1")))

    same = await desk.carry(fired(desk, run_of(made)))
    other = await desk.carry(fired(desk, run_of(made, at="2026-01-02T00:00:00Z")))

    assert (same.outcome, other.outcome, other.reason) == ("applied", "conflict", "AlreadyExists")
