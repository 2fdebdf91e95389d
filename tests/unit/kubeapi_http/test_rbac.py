"""Rights by roles: scopes, names, subresources, aggregation, escalation, reviews (HTTP-6)."""

import asyncio
import threading
from typing import Any

import pytest

from kubeapi.access import Attributes, User
from kubeapi.bootstrap import ensure_defaults
from kubeapi.rbac import Grant, Rbac
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.face import Face, person

RBAC = "/apis/rbac.authorization.k8s.io/v1"
LOCAL = f"{RBAC}/namespaces/default"
NS = "/api/v1/namespaces/default"
ANN = person("ann", "dev")


def rule(verbs: str, resources: str, group: str = "", names: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}
    return {**out, "resourceNames": names.split()} if names else out


async def give(
    face: Face, *rules: dict[str, Any], subject: dict[str, str] | None = None, cluster: bool = False
) -> None:
    scope, kind = (RBAC, "ClusterRole") if cluster else (LOCAL, "Role")
    plural = "clusterrole" if cluster else "role"
    await face.must("POST", f"{scope}/{plural}s", {"metadata": {"name": "r"}, "rules": list(rules)})
    body = {
        "metadata": {"name": "b"},
        "roleRef": {"kind": kind, "name": "r"},
        "subjects": [subject or {"kind": "User", "name": "ann"}],
    }
    await face.must("POST", f"{scope}/{plural}bindings", body)


async def test_nothing_is_allowed_that_no_role_allows(face: Face) -> None:
    refused = await face.ask("GET", f"{NS}/configmaps", who=ANN)
    assert refused.status == 403
    assert refused.message == (
        'configmaps is forbidden: User "ann" cannot list resource "configmaps" in API group "" in the namespace "default"'
    )


async def test_a_role_holds_in_its_namespace_alone(face: Face) -> None:
    await give(face, rule("list", "configmaps"))
    assert (await face.ask("GET", f"{NS}/configmaps", who=ANN)).status == 200
    assert (await face.ask("GET", "/api/v1/namespaces/kube-system/configmaps", who=ANN)).status == 403
    assert (await face.ask("GET", "/api/v1/configmaps", who=ANN)).status == 403


async def test_a_cluster_role_binding_holds_everywhere(face: Face) -> None:
    await give(face, rule("list", "configmaps"), cluster=True)
    assert (await face.ask("GET", "/api/v1/configmaps", who=ANN)).status == 200


async def test_a_right_to_get_is_no_right_to_list_or_watch(face: Face) -> None:
    await face.must("POST", f"{NS}/configmaps", {"metadata": {"name": "a"}})
    await give(face, rule("get", "configmaps"))
    assert (await face.ask("GET", f"{NS}/configmaps/a", who=ANN)).status == 200
    assert (await face.ask("GET", f"{NS}/configmaps", who=ANN)).status == 403
    assert (await face.ask("GET", f"{NS}/configmaps?watch=true", who=ANN)).status == 403
    assert (await face.ask("GET", f"{NS}/configmaps/a?watch=true", who=ANN)).status == 403


async def test_resource_names_limit_a_rule(face: Face) -> None:
    for name in "ab":
        await face.must("POST", f"{NS}/configmaps", {"metadata": {"name": name}})
    await give(face, rule("get", "configmaps", names="a"))
    assert (await face.ask("GET", f"{NS}/configmaps/a", who=ANN)).status == 200
    assert (await face.ask("GET", f"{NS}/configmaps/b", who=ANN)).status == 403


async def test_a_subresource_is_a_right_of_its_own(face: Face) -> None:
    await face.must("POST", f"{NS}/serviceaccounts", {"metadata": {"name": "robot"}})
    await give(face, rule("*", "serviceaccounts"))
    assert (await face.ask("POST", f"{NS}/serviceaccounts/robot/token", {}, ANN)).status == 403
    await give_more(face, rule("create", "serviceaccounts/token"))
    assert (await face.ask("POST", f"{NS}/serviceaccounts/robot/token", {}, ANN)).status == 201


async def give_more(face: Face, *rules: dict[str, Any]) -> None:
    held = await face.must("GET", f"{LOCAL}/roles/r")
    await face.must("PATCH", f"{LOCAL}/roles/r", {"rules": [*held["rules"], *rules]})


@pytest.mark.parametrize(
    "subject",
    [
        {"kind": "Group", "name": "dev"},
        {"kind": "Group", "name": "system:authenticated"},
        {"kind": "User", "name": "ann"},
    ],
)
async def test_a_subject_is_a_user_or_one_of_its_groups(face: Face, subject: dict[str, str]) -> None:
    await give(face, rule("list", "configmaps"), subject=subject)
    assert (await face.ask("GET", f"{NS}/configmaps", who=ANN)).status == 200


async def test_a_right_ends_when_its_binding_goes(face: Face) -> None:
    await give(face, rule("list", "configmaps"))
    assert (await face.ask("GET", f"{NS}/configmaps", who=ANN)).status == 200
    await face.must("DELETE", f"{LOCAL}/rolebindings/b")
    assert (await face.ask("GET", f"{NS}/configmaps", who=ANN)).status == 403


async def test_applying_what_does_not_exist_needs_the_right_to_create(face: Face) -> None:
    await give(face, rule("patch", "configmaps"))
    apply = f"{NS}/configmaps/a?fieldManager=t"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    refused = await face.ask("PATCH", apply, body, ANN, content_type="application/apply-patch+yaml")
    assert refused.status == 403
    await face.must("POST", f"{NS}/configmaps", {"metadata": {"name": "a"}})
    applied = await face.ask("PATCH", apply, body, ANN, content_type="application/apply-patch+yaml")
    assert applied.status == 200


async def test_aggregated_roles_reach_custom_kinds_through_two_levels(face: Face) -> None:
    body = {
        "metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "ann"}],
    }
    await face.must("POST", f"{LOCAL}/rolebindings", body)
    review = {
        "spec": {
            "resourceAttributes": {
                "verb": "list",
                "group": "devices.kubeedge.io",
                "resource": "devices",
                "namespace": "default",
            }
        }
    }
    answer = await face.must("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, ANN)
    assert answer["status"]["allowed"] is True


async def test_nobody_grants_what_they_do_not_have(face: Face) -> None:
    await give(face, rule("create patch", "roles", "rbac.authorization.k8s.io"), rule("get", "configmaps"))
    wanted = {"metadata": {"name": "more"}, "rules": [rule("get", "secrets")]}
    refused = await face.ask("POST", f"{LOCAL}/roles", wanted, ANN)
    assert refused.status == 403
    assert 'cannot get resource "secrets"' in refused.message
    less = {"metadata": {"name": "less"}, "rules": [rule("get", "configmaps")]}
    assert (await face.ask("POST", f"{LOCAL}/roles", less, ANN)).status == 201


async def test_nobody_binds_a_role_beyond_their_own_rights(face: Face) -> None:
    await give(face, rule("*", "rolebindings", "rbac.authorization.k8s.io"), rule("get", "configmaps"))
    body = {"metadata": {"name": "up"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []}
    assert (await face.ask("POST", f"{LOCAL}/rolebindings", body, ANN)).status == 403
    missing = {**body, "roleRef": {"kind": "Role", "name": "nope"}}
    assert (await face.ask("POST", f"{LOCAL}/rolebindings", missing, ANN)).status == 403


async def test_a_role_that_grows_in_the_same_commit_is_bound_by_nobody_who_lacks_it(face: Face) -> None:
    """Both writes are queued before either commits: the check must see the role as it will be."""
    await give(face, rule("*", "rolebindings", "rbac.authorization.k8s.io"), rule("get", "configmaps"))
    small = {"metadata": {"name": "small"}, "rules": [rule("get", "configmaps")]}
    await face.must("POST", f"{LOCAL}/roles", small)
    await face.must("POST", f"{RBAC}/clusterroles", small)
    refs = [("Role", f"{LOCAL}/roles"), ("ClusterRole", f"{RBAC}/clusterroles")]
    held = threading.Event()
    block = face.store.db.submit(lambda _: held.wait(10))
    grown = [
        asyncio.ensure_future(face.must("PATCH", f"{at}/small", {"rules": [rule("get", "secrets")]})) for _, at in refs
    ]
    await eventually(lambda: face.store.db._committer.waiting == 1 + len(grown))
    binds = [
        asyncio.ensure_future(
            face.ask(
                "POST",
                f"{LOCAL}/rolebindings",
                {"metadata": {"name": kind.lower()}, "roleRef": {"kind": kind, "name": "small"}},
                ANN,
            )
        )
        for kind, _ in refs
    ]
    await eventually(lambda: face.store.db._committer.waiting == 1 + len(grown) + len(binds))
    held.set()
    await block
    await asyncio.gather(*grown)
    assert [(await bind).status for bind in binds] == [403, 403]


async def test_a_right_that_ends_while_it_is_looked_up_is_not_remembered(face: Face) -> None:
    await give(face, rule("get", "configmaps"))
    rbac = Rbac(face.store)
    wanted = Attributes(User("ann"), "get", "", "configmaps", "", "default", "x")
    reading, gone = threading.Event(), threading.Event()

    class Slow(Rbac):
        def _compile(self) -> dict[str, list[Grant]]:
            out = super()._compile()
            reading.set()
            gone.wait(10)
            return out

    slow = Slow(face.store)
    asked = asyncio.ensure_future(asyncio.to_thread(slow.allows, wanted))
    await asyncio.to_thread(reading.wait, 10)
    await face.must("DELETE", f"{LOCAL}/rolebindings/b")
    gone.set()
    await asked
    assert (slow.allows(wanted), rbac.allows(wanted)) == ("", "")


async def test_a_binding_keeps_its_role(face: Face) -> None:
    await give(face, rule("get", "configmaps"))
    changed = {"roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"}}
    assert (await face.ask("PATCH", f"{LOCAL}/rolebindings/b", changed)).status == 422


async def test_default_roles_come_back_and_a_persons_changes_to_others_stay(face: Face) -> None:
    await face.must("PATCH", f"{RBAC}/clusterroles/system:basic-user", {"rules": []})
    await face.must("DELETE", f"{RBAC}/clusterrolebindings/system:discovery")
    await ensure_defaults(face.server.objects)
    assert (await face.must("GET", f"{RBAC}/clusterroles/system:basic-user"))["rules"]
    assert await face.must("GET", f"{RBAC}/clusterrolebindings/system:discovery")


async def test_masters_keep_their_rights_without_any_role(face: Face) -> None:
    await face.must("DELETE", f"{RBAC}/clusterrolebindings")
    await face.must("DELETE", f"{RBAC}/clusterroles")
    assert (await face.ask("GET", f"{RBAC}/clusterroles")).status == 200


async def test_reviews_answer_for_others(face: Face) -> None:
    await give(face, rule("list", "configmaps"))
    asked = {"resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": "default"}, "user": "ann"}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert (await face.must("POST", path, {"spec": asked}))["status"]["allowed"] is True
    local = "/apis/authorization.k8s.io/v1/namespaces/kube-system/localsubjectaccessreviews"
    elsewhere = {**asked, "resourceAttributes": {"verb": "list", "resource": "configmaps"}}
    assert (await face.must("POST", local, {"spec": elsewhere}))["status"]["allowed"] is False
    assert (await face.ask("POST", local, {"spec": asked})).status == 400


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"resourceAttributes": {}, "nonResourceAttributes": {}},
        {"resourceAttributes": []},
        {"resourceAttributes": "x"},
    ],
)
async def test_a_review_of_nothing_is_refused(face: Face, spec: dict[str, Any]) -> None:
    refused = await face.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": spec})
    assert refused.status in (400, 422)


async def test_a_rules_review_lists_what_one_has(face: Face) -> None:
    await give(face, rule("list", "configmaps"))
    answer = await face.must(
        "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}, ANN
    )
    assert {"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]} in answer["status"]["resourceRules"]
    assert answer["status"]["nonResourceRules"]


async def holds(face: Face, role: str, verb: str, what: str, group: str = "") -> bool:
    """Whether ``role``, given in one namespace, allows it there."""
    user = f"{role}-person"
    subject = {"kind": "User", "name": user}
    binding = {
        "metadata": {"name": user},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }
    await face.ask("POST", f"{LOCAL}/rolebindings", binding)
    resource, _, subresource = what.partition("/")
    attributes = {"verb": verb, "group": group, "resource": resource, "namespace": "default"}
    spec = {"user": user, "resourceAttributes": {**attributes, "subresource": subresource}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    answer = await face.must("POST", path, {"spec": spec})
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize(
    ("group", "what", "verb", "who"),
    [
        ("metrics.k8s.io", "pods", "list", "view edit admin"),
        ("metrics.k8s.io", "nodes", "get", "view edit admin"),
        ("edge.skerry.io", "writeconflicts", "list", "view edit admin"),
        ("edge.skerry.io", "writeconflicts", "delete", "edit admin"),
        ("edge.skerry.io", "writeconflicts", "create", ""),
        ("", "secrets", "get", "edit admin"),
        ("", "endpoints", "get", "view edit admin"),
        ("", "endpoints", "update", ""),
        ("discovery.k8s.io", "endpointslices", "update", ""),
        ("", "pods/exec", "create", "edit admin"),
        ("", "pods/log", "get", "view edit admin"),
        ("", "pods/eviction", "create", "edit admin"),
        ("", "serviceaccounts", "impersonate", "edit admin"),
        ("apps", "statefulsets/scale", "patch", "edit admin"),
        ("apps", "controllerrevisions", "get", "view edit admin"),
        ("batch", "cronjobs", "create", "edit admin"),
        ("policy", "poddisruptionbudgets/status", "get", "view edit admin"),
        ("rbac.authorization.k8s.io", "rolebindings", "create", "admin"),
        ("", "resourcequotas", "update", ""),
        ("", "nodes", "list", ""),
        ("", "persistentvolumes", "get", ""),
    ],
)
async def test_the_roles_that_everybody_knows_allow_what_they_do_elsewhere(
    face: Face, group: str, what: str, verb: str, who: str
) -> None:
    allowed = [role for role in ("view", "edit", "admin") if await holds(face, role, verb, what, group)]
    assert allowed == who.split()
