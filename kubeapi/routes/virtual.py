"""Requests that are answered from what is known, not stored: reviews of tokens and rights, TokenRequest, Eviction."""

from datetime import UTC, datetime
from typing import Any

from kubeapi.access import ACCOUNT_PREFIX, Access, Attributes, User
from kubeapi.binding import bind_in
from kubeapi.errors import INVALID, REQUIRED, ApiError, Cause, bad_request, invalid, unknown_resource
from kubeapi.eviction import evict_in
from kubeapi.objects import Objects
from kubeapi.rbac import Rbac
from kubeapi.resources import Resource
from kubeapi.routes.target import Target
from kubeapi.routes.writes import read_delete_options
from kubeapi.tokens import MAX_LIFE_S, MIN_LIFE_S
from proto.kit.clock import rfc3339

DEFAULT_TOKEN_S = 3600
SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

Json = dict[str, Any]


class Virtual:
    """Answers for the kinds of ``virtual_kinds`` and for the subresources that are not a part of their object."""

    def __init__(self, objects: Objects, access: Access, rbac: Rbac | None) -> None:
        self._objects, self._access, self._rbac = objects, access, rbac

    def review(self, target: Target, body: Any) -> Json:
        """Answer one of the reviews. Raises 400, 422."""
        sent = _checked(target.res, body)
        spec = sent.get("spec") or {}
        if not isinstance(spec, dict):
            raise bad_request(f"spec of a {target.res.kind} must be an object")
        answers = {
            "TokenReview": self._token_review,
            "SelfSubjectReview": self._self_review,
            "SelfSubjectAccessReview": self._self_access,
            "SelfSubjectRulesReview": self._self_rules,
            "SubjectAccessReview": self._subject_access,
            "LocalSubjectAccessReview": self._local_access,
        }
        status = answers[target.res.kind](target, spec)
        metadata = sent.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise bad_request(f"metadata of a {target.res.kind} must be an object")
        metadata = {"creationTimestamp": None, **metadata}
        out = {"kind": target.res.kind, "apiVersion": target.res.api_version, "metadata": metadata}
        if target.res.kind != "SelfSubjectReview":
            out["spec"] = spec
        return {**out, "status": status}

    def token(self, target: Target, body: Any) -> Json:
        """Answer TokenRequest: a signed token for a service account. Raises 400, 404, 422, 501."""
        account = self._objects.get(target.res, target.space, target.name)
        signer = self._access.authenticator.signer
        if signer is None:
            raise ApiError(501, "NotImplemented", "this server has no key to sign service-account tokens with")
        spec = _token_spec(body)
        lasting_s = spec.get("expirationSeconds") or DEFAULT_TOKEN_S
        if not isinstance(lasting_s, int) or not MIN_LIFE_S <= lasting_s <= MAX_LIFE_S:
            text = f"Invalid value: {lasting_s}: may not be less than {MIN_LIFE_S} (10 minutes) or more than {MAX_LIFE_S} (1 year)"
            raise invalid(target.res, target.name, [Cause(INVALID, "spec.expirationSeconds", text)])
        now = signer.now()
        audiences = _texts(spec, "audiences") or [signer.issuer]
        bound: Json = {
            "namespace": target.space,
            "serviceaccount": {"name": target.name, "uid": account["metadata"]["uid"]},
        }
        pod = self._bound_pod(target, spec.get("boundObjectRef"))
        if pod is not None:
            bound["pod"] = pod
        claims = {
            "iss": signer.issuer,
            "sub": f"{ACCOUNT_PREFIX}{target.space}:{target.name}",
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now + lasting_s,
            "kubernetes.io": bound,
        }
        expires = rfc3339(datetime.fromtimestamp(now + lasting_s, UTC))
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": target.name, "namespace": target.space, "creationTimestamp": rfc3339(self._now())},
            "spec": {**spec, "audiences": audiences, "expirationSeconds": lasting_s},
            "status": {"token": signer.sign(claims), "expirationTimestamp": expires},
        }

    async def evict(self, target: Target, body: Any) -> Json:
        """Answer Eviction: delete the pod as its options say, if its disruption budget lets it go. Raises 400, 404, 409, 429."""
        asked = body.get("deleteOptions") or {} if isinstance(body, dict) else {}
        if not isinstance(asked, dict):
            raise bad_request("deleteOptions of an Eviction must be an object")
        opts = read_delete_options(asked, target.user)
        await self._objects.store.db.tx(lambda tx: evict_in(self._objects, tx, target.space, target.name, opts))
        return dict(SUCCESS)

    async def bind(self, target: Target, body: Any) -> Json:
        """Answer Binding: put a pod on a node. Raises 400, 404, 409."""
        node = _text(body.get("target") if isinstance(body, dict) else None, "name")
        if not node:
            raise bad_request("target.name of a Binding must name the node")
        space, name, user = target.space, target.name, target.user
        uid = _text(body.get("metadata"), "uid")
        await self._objects.store.db.tx(lambda tx: bind_in(self._objects, tx, space, name, node, uid=uid, user=user))
        return dict(SUCCESS)

    def _now(self) -> datetime:
        return self._objects.clock.wall()

    def _bound_pod(self, target: Target, ref: Any) -> Json | None:
        if not ref:
            return None
        if not isinstance(ref, dict) or ref.get("kind") != "Pod":
            raise bad_request("spec.boundObjectRef may only name a Pod")
        pods = self._objects.registry.find("", "v1", "pods")
        if pods is None:
            raise unknown_resource()
        found = self._objects.get(pods, target.space, str(ref.get("name", "")))
        uid = found["metadata"]["uid"]
        if ref.get("uid") not in (None, "", uid):
            raise ApiError(
                409, "Conflict", f"the UID in the bound object reference ({ref['uid']}) is not the pod's ({uid})"
            )
        return {"name": found["metadata"]["name"], "uid": uid}

    def _token_review(self, _: Target, spec: Json) -> Json:
        audiences = tuple(_texts(spec, "audiences"))
        try:
            user = self._access.authenticator.by_token(str(spec.get("token", "")), audiences)
        except ApiError as error:
            return {"authenticated": False, "error": error.message, "user": {}}
        return {"authenticated": True, "user": user.body(), **({"audiences": list(audiences)} if audiences else {})}

    def _self_review(self, target: Target, _: Json) -> Json:
        return {"userInfo": target.user.body()}

    def _self_access(self, target: Target, spec: Json) -> Json:
        return self._decide(target.res, target.user, spec)

    def _subject_access(self, target: Target, spec: Json) -> Json:
        name, groups = str(spec.get("user") or ""), tuple(_texts(spec, "groups"))
        if not name and not groups:
            cause = Cause(REQUIRED, "spec.user", "Required value: at least one of user or group must be specified")
            raise invalid(target.res, "", [cause])
        return self._decide(target.res, User(name, groups), spec)

    def _local_access(self, target: Target, spec: Json) -> Json:
        wanted = spec.get("resourceAttributes") or {}
        if not isinstance(wanted, dict) or wanted.get("namespace") not in (None, "", target.space):
            raise bad_request("spec.resourceAttributes.namespace must match the namespace of the request")
        spec["resourceAttributes"] = {**wanted, "namespace": target.space}
        return self._subject_access(target, spec)

    def _decide(self, res: Resource, user: User, spec: Json) -> Json:
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (resource is None) == (path is None):
            text = "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"
            raise invalid(res, "", [Cause(INVALID, "spec.resourceAttributes", text)])
        for part in (resource, path):
            if part is not None and not isinstance(part, dict):
                raise bad_request("the attributes of an access review must be an object")
        if resource is None:
            wanted = Attributes(user, _text(path, "verb"), path=_text(path, "path") or "/")
        else:
            wanted = Attributes(
                user,
                _text(resource, "verb"),
                _text(resource, "group"),
                _text(resource, "resource"),
                _text(resource, "subresource"),
                _text(resource, "namespace"),
                _text(resource, "name"),
            )
        reason = self._access.why(wanted)
        return {"allowed": bool(reason), **({"reason": reason} if reason else {})}

    def _self_rules(self, target: Target, spec: Json) -> Json:
        namespace = spec.get("namespace")
        if not namespace:
            cause = Cause(REQUIRED, "spec.namespace", "Required value: namespace is required")
            raise invalid(target.res, "", [cause])
        out: Json = {"resourceRules": [], "nonResourceRules": [], "incomplete": self._rbac is None}
        for rule in self._rules(target.user, str(namespace)):
            out["nonResourceRules" if "nonResourceURLs" in rule else "resourceRules"].append(rule)
        if target.user.node:
            out["incomplete"] = True
            out["evaluationError"] = "the node authorizer decides by object, so its rules cannot be listed"
        return out

    def _rules(self, user: User, namespace: str) -> list[Json]:
        if "system:masters" in user.groups:
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            return [everything, {"verbs": ["*"], "nonResourceURLs": ["*"]}]
        return [g.rule.body() for g in self._rbac.grants(user, namespace)] if self._rbac is not None else []


def _text(asked: Any, key: str) -> str:
    return str(asked.get(key) or "") if isinstance(asked, dict) else ""


def _checked(res: Resource, body: Any) -> Json:
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object of kind {res.kind}")
    given = (body.get("apiVersion") or res.api_version, body.get("kind") or res.kind)
    if given != (res.api_version, res.kind):
        raise bad_request(
            f"the body is {given[1]} in version {given[0]}; this path takes {res.kind} in {res.api_version}"
        )
    return dict(body)


def _token_spec(body: Any) -> Json:
    if body is None:
        return {}
    if not isinstance(body, dict) or not isinstance(body.get("spec") or {}, dict):
        raise bad_request("the body must be a TokenRequest with an object as its spec")
    return dict(body.get("spec") or {})


def _texts(spec: Json, key: str) -> list[str]:
    found = spec.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise bad_request(f"spec.{key} must be a list of strings")
    return found
