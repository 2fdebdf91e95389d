"""The table of protobuf fields against its oracle: the descriptors inside kubectl itself."""

import base64
from typing import Any

import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from deploy.kubectl import provide
from kubeapi import protobuf, protobuf_source


@pytest.fixture(scope="module", params=["1.32", "1.33"])
def messages(request: pytest.FixtureRequest) -> dict[str, descriptor_pb2.DescriptorProto]:
    return protobuf_source.descriptors(provide(request.param).read_bytes())


def test_every_field_that_kubectl_may_post_is_in_the_table(messages: dict[str, Any]) -> None:
    kinds, table = protobuf._table()
    made = protobuf_source.table(messages)
    assert set(made["kinds"]) <= set(kinds)
    for message, fields in made["messages"].items():
        for number, (name, kind, flags) in fields.items():
            held = table[message][int(number)]
            assert (held.name, held.kind, held.repeated, held.map) == (name, kind, "r" in flags, "m" in flags), message


def test_what_an_independent_encoder_writes_is_read(messages: dict[str, Any]) -> None:
    pod = message_class(messages, "k8s.io.api.core.v1.Pod")()
    pod.metadata.name = "web"
    pod.metadata.labels["app"] = "web"
    pod.spec.priority = 0
    container = pod.spec.containers.add(name="main", image="nginx", command=["a", "b"])
    container.resources.limits["cpu"].string = "500m"
    container.livenessProbe.handler.httpGet.port.type = 1
    container.livenessProbe.handler.httpGet.port.strVal = "http"
    container.env.add(name="A").valueFrom.secretKeyRef.localObjectReference.name = "s"
    volume = pod.spec.volumes.add(name="v")
    volume.volumeSource.secret.defaultMode = 0
    body = b"k8s\0" + unknown(messages, "v1", "Pod", pod.SerializeToString())
    spec = protobuf.decode(body)["spec"]
    assert spec["priority"] == 0
    assert spec["volumes"] == [{"name": "v", "secret": {"defaultMode": 0}}]
    assert spec["containers"] == [
        {
            "name": "main",
            "image": "nginx",
            "command": ["a", "b"],
            "resources": {"limits": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"port": "http"}},
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
        }
    ]


def test_reviews_tokens_and_evictions_are_read(messages: dict[str, Any]) -> None:
    review = message_class(messages, "k8s.io.api.authorization.v1.SubjectAccessReview")()
    review.spec.user = "ann"
    review.spec.extra["scopes"].items.append("a")
    found = protobuf.decode(
        b"k8s\0" + unknown(messages, "authorization.k8s.io/v1", "SubjectAccessReview", review.SerializeToString())
    )
    assert found["spec"] == {"user": "ann", "extra": {"scopes": ["a"]}}
    eviction = message_class(messages, "k8s.io.api.policy.v1.Eviction")()
    eviction.deleteOptions.gracePeriodSeconds = 0
    found = protobuf.decode(b"k8s\0" + unknown(messages, "policy/v1", "Eviction", eviction.SerializeToString()))
    assert found["deleteOptions"] == {"gracePeriodSeconds": 0}
    request = message_class(messages, "k8s.io.api.certificates.v1.CertificateSigningRequest")()
    request.spec.request = b"pem"
    found = protobuf.decode(
        b"k8s\0" + unknown(messages, "certificates.k8s.io/v1", "CertificateSigningRequest", request.SerializeToString())
    )
    assert base64.b64decode(found["spec"]["request"]) == b"pem"
    assert msgspec.json.encode(found)


def message_class(messages: dict[str, Any], name: str) -> Any:
    """Return a class for ``name``, built from the descriptors alone."""
    pool = descriptor_pool.DescriptorPool()
    by_package: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    top = {n: m for n, m in messages.items() if n.rpartition(".")[0] not in messages}
    for full, message in top.items():
        package = full.rpartition(".")[0]
        file = by_package.setdefault(
            package, descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto2")
        )
        file.message_type.add().CopyFrom(message)
    done: set[str] = set()

    def add(package: str) -> None:
        if package in done:
            return
        done.add(package)
        file = by_package[package]
        needed = {
            f.type_name.lstrip(".").rpartition(".")[0] for m in file.message_type for f in fields(m) if f.type == 11
        }
        for other in sorted(needed & by_package.keys() - {package}):
            add(other)
            file.dependency.append(other)
        pool.Add(file)

    add(name.rpartition(".")[0])
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def fields(message: Any) -> list[Any]:
    return [*message.field, *[f for nested in message.nested_type for f in fields(nested)]]


def unknown(messages: dict[str, Any], api_version: str, kind: str, raw: bytes) -> bytes:
    outer = message_class(messages, "k8s.io.apimachinery.pkg.runtime.Unknown")()
    outer.typeMeta.apiVersion, outer.typeMeta.kind, outer.raw = api_version, kind, raw
    return bytes(outer.SerializeToString())
