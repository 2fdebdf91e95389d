"""Writes of nodes, made again: whose they are, what they concern, and what the cloud has changed since."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudcore.hub.replay import CONFLICTS, Replay
from cloudcore.hub.write_outcomes import Outcomes
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    POD,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE_ACCOUNT,
    Kind,
)
from cloudcore.kube.resources import NODE as NODE_KIND
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
    edge = {"name": NODE, "labels": {labels.EDGE_ROLE: ""}}
    await client.create(NODE_KIND, "", {"apiVersion": "v1", "kind": "Node", "metadata": edge})
    await eventually(lambda: desk.cloud.cluster.nodes.get("", NODE))
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


async def test_what_is_no_write_at_all_is_dropped(desk: Desk) -> None:
    with pytest.raises(MalformedMessage):
        await desk.replay.carry(NODE, MessageRow(1, writes.KIND, b'{"seq": "x"}'), {})
