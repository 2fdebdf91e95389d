"""Environment, command and the downward API of containers, as kubelet makes them."""

import base64
from typing import Any

import pytest

from edgecore.pods import downward
from edgecore.pods.environment import command, environment, expand, service_environment, services_of
from edgecore.pods.facts import NodeFacts
from edgecore.pods.unready import Unready
from tests.kit.pod_objects import FACTS, UID, HeldObjects, container, pod

Json = dict[str, Any]


def coded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def values(held: Json, objects: HeldObjects | None = None, **fields: Any) -> dict[str, str]:
    found, _ = environment(
        pod(held, **fields), held, objects or HeldObjects(), FACTS, ips=("10.88.0.5", "fd00::5"), services={}
    )
    return found


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y2z"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$", "$$"),
        ("$", "$"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$(A)$", "1$"),
        ("$($(A))", "$($(A))"),
    ],
)
def test_references_to_variables_are_replaced(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}, {"B": "2", "A": "not this"}) == expanded


def test_a_variable_sees_those_before_it_only() -> None:
    env = [{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}, {"name": "C", "value": "$(A)$(B)"}]

    assert values(container(env=env)) == {"B": "$(A)", "A": "1", "C": "1$(A)"}


def test_env_comes_over_env_from_and_an_empty_value_is_one() -> None:
    objects = HeldObjects()
    objects.put("configmaps", "c", data={"A": "config", "B": "config"})
    objects.put("secrets", "s", data={"B": coded("secret")})
    held = container(
        envFrom=[{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}, {"prefix": "P_", "configMapRef": {"name": "c"}}],
        env=[{"name": "A", "value": ""}],
    )  # fmt: skip

    assert values(held, objects) == {"A": "", "B": "secret", "P_A": "config", "P_B": "config"}


def test_keys_that_cannot_be_names_are_told() -> None:
    objects = HeldObjects()
    objects.put("configmaps", "c", data={"a.b-c": "1", "a=b": "2", "ä": "3"})
    held = container(envFrom=[{"configMapRef": {"name": "c"}}])

    found, refused = environment(pod(held), held, objects, FACTS, ips=(), services={})

    assert (found, refused) == ({"a.b-c": "1"}, ["a=b", "ä"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "default"),
        ("metadata.uid", UID),
        ("metadata.labels['app']", "shop"),
        ("metadata.annotations['note']", "x"),
        ("metadata.labels['none']", ""),
        ("spec.nodeName", "gw-1"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "192.0.2.10"),
        ("status.hostIPs", "192.0.2.10"),
        ("status.podIP", "10.88.0.5"),
        ("status.podIPs", "10.88.0.5,fd00::5"),
    ],
)
def test_field_references(path: str, value: str) -> None:
    held = container(env=[{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}])
    metadata = {"labels": {"app": "shop"}, "annotations": {"note": "x"}}
    spec = pod(held, metadata=metadata, serviceAccountName="robot")

    found, _ = environment(spec, held, HeldObjects(), FACTS, ips=("10.88.0.5", "fd00::5"), services={})

    assert found == {"X": value}


def test_with_the_host_s_network_the_pod_s_address_is_the_host_s() -> None:
    held = container(env=[{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}])

    found, _ = environment(pod(held, hostNetwork=True), held, HeldObjects(), FACTS, ips=(), services={})

    assert found == {"X": "192.0.2.10"}


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ({"resource": "limits.cpu"}, "1"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "250"),
        ({"resource": "limits.memory"}, "67108864"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "64"),
        ({"resource": "limits.memory", "divisor": "1Gi"}, "1"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "100"),
        ({"resource": "requests.memory"}, "67108864"),
        ({"resource": "requests.ephemeral-storage"}, "0"),
        ({"resource": "limits.ephemeral-storage", "divisor": "1Gi"}, "10"),
        ({"resource": "limits.cpu", "divisor": "0"}, "1"),
    ],
)
def test_resource_references(ref: Json, value: str) -> None:
    resources = {"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}

    assert downward.resource(container(resources=resources), ref, FACTS) == value


def test_without_a_limit_the_node_s_allocatable_is_told() -> None:
    assert downward.resource(container(), {"resource": "limits.memory", "divisor": "1Mi"}, FACTS) == "4096"
    assert downward.resource(container(), {"resource": "limits.cpu"}, NodeFacts("n")) == "0"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, 'configmap "none" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, "couldn't find key k in ConfigMap default/c"),
        ({"secretKeyRef": {"name": "none", "key": "k"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "s", "key": "k"}}, "couldn't find key k in Secret default/s"),
        ({"secretKeyRef": {"name": "s", "key": "raw"}}, 'key raw of secret "s" is no text'),
        ({"fieldRef": {"fieldPath": "spec.volumes"}}, "unsupported fieldPath: spec.volumes"),
        ({"resourceFieldRef": {"resource": "x.cpu"}}, "unsupported container resource: x.cpu"),
        ({"fileKeyRef": {}}, "a source that this node does not know"),
    ],
)
def test_what_is_missing_is_named(source: Json, words: str) -> None:
    objects = HeldObjects()
    objects.put("configmaps", "c", data={})
    objects.put("secrets", "s", data={"raw": coded(b"\xff\xfe")})

    with pytest.raises(Unready) as caught:
        values(container(env=[{"name": "X", "valueFrom": source}]), objects)

    assert caught.value.reason == "CreateContainerConfigError"
    assert words in caught.value.message
    optional = {key: {**ref, "optional": True} for key, ref in source.items() if key.endswith("KeyRef")}
    if optional and "raw" not in str(source) and "file" not in str(source):
        assert values(container(env=[{"name": "X", "valueFrom": optional}]), objects) == {}


def test_a_missing_object_of_env_from_is_named_unless_it_is_optional() -> None:
    with pytest.raises(Unready, match='secret "s" not found'):
        values(container(envFrom=[{"secretRef": {"name": "s"}}]))
    assert values(container(envFrom=[{"secretRef": {"name": "s", "optional": True}}])) == {}


def service(name: str, address: str, *ports: Json) -> Json:
    return {"metadata": {"name": name}, "spec": {"clusterIP": address, "ports": list(ports)}}


def test_services_are_announced_in_both_forms() -> None:
    found = service_environment(
        [service("web-db", "10.0.0.9", {"port": 5432, "name": "sql-main"}, {"port": 53, "protocol": "UDP"})]
    )

    assert found == {
        "WEB_DB_SERVICE_HOST": "10.0.0.9",
        "WEB_DB_SERVICE_PORT": "5432",
        "WEB_DB_SERVICE_PORT_SQL_MAIN": "5432",
        "WEB_DB_PORT": "tcp://10.0.0.9:5432",
        "WEB_DB_PORT_5432_TCP": "tcp://10.0.0.9:5432",
        "WEB_DB_PORT_5432_TCP_PROTO": "tcp",
        "WEB_DB_PORT_5432_TCP_PORT": "5432",
        "WEB_DB_PORT_5432_TCP_ADDR": "10.0.0.9",
        "WEB_DB_PORT_53_UDP": "udp://10.0.0.9:53",
        "WEB_DB_PORT_53_UDP_PROTO": "udp",
        "WEB_DB_PORT_53_UDP_PORT": "53",
        "WEB_DB_PORT_53_UDP_ADDR": "10.0.0.9",
    }  # fmt: skip


def test_a_service_without_an_address_is_not_announced() -> None:
    assert (
        service_environment([service("a", "None", {"port": 1}), service("b", "", {"port": 1}), service("c", "1.2.3.4")])
        == {}
    )


def test_pods_find_the_node_s_own_api_and_links_may_be_off() -> None:
    objects = HeldObjects()
    objects.put("services", "db", spec={"clusterIP": "10.0.0.9", "ports": [{"port": 1}]})
    objects.put("services", "kubernetes", spec={"clusterIP": "10.96.0.1", "ports": [{"port": 443, "name": "https"}]})

    linked = services_of(pod(), objects, ("169.254.20.1", 10550))
    alone = services_of(pod(enableServiceLinks=False), objects, ("169.254.20.1", 10550))
    cloud = services_of(pod(enableServiceLinks=False), objects, None)

    assert linked["DB_SERVICE_HOST"] == "10.0.0.9"
    assert "DB_SERVICE_HOST" not in alone
    assert (alone["KUBERNETES_SERVICE_HOST"], alone["KUBERNETES_SERVICE_PORT"]) == ("169.254.20.1", "10550")
    assert (cloud["KUBERNETES_SERVICE_HOST"], cloud["KUBERNETES_SERVICE_PORT"]) == ("10.96.0.1", "443")


def test_command_and_arguments_are_expanded() -> None:
    held = container(command=["/bin/$(A)"], args=["$(A)", "$(B)", "$$(A)"])

    assert command(held, {"A": "x"}) == (("/bin/x",), ("x", "$(B)", "$(A)"))
    assert command(container(), {}) == ((), ())


def test_labels_are_written_as_the_downward_api_writes_them() -> None:
    assert downward.lines({"b": 'say "hi"', "a": "1\n2\t\x00é"}) == 'a="1\\n2\\t\\x00é"\nb="say \\"hi\\""'
