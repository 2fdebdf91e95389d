"""create, update, patch, delete and deletecollection."""

from typing import Any

from kubeapi import patching
from kubeapi.access import Access, Attributes, User
from kubeapi.bodies import decode_json, duplicate_fields
from kubeapi.errors import ApiError, bad_request, method_not_supported, unknown_resource
from kubeapi.http import Request
from kubeapi.objects import DeleteOptions, ListResult, Objects, WriteOptions
from kubeapi.routes.negotiation import JSON, YAML, content_type, read_body, unreadable
from kubeapi.routes.reads import list_options
from kubeapi.routes.target import Target
from kubeapi.scaling import merge_of, to_scale
from kubeapi.stored import encode

VALIDATIONS = ("Ignore", "Strict", "Warn")
SIGNERS = "signers"  # rights to approve are given on these, by signer name

Json = dict[str, Any]


class Writes:
    """Writes on stored objects: reads options and body, asks for the rights that the path alone does not show."""

    def __init__(self, objects: Objects, access: Access) -> None:
        self._objects, self._access = objects, access

    async def create(self, target: Target, request: Request) -> tuple[Json, WriteOptions]:
        """Raises 400, 403, 404, 409, 415, 422."""
        opts = write_options(target, request)
        body = self._body(target, request, opts)
        return await self._objects.create(target.res, target.space, body, opts), opts

    async def update(self, target: Target, request: Request) -> tuple[Json, WriteOptions]:
        """Raises 400, 403, 404, 409, 415, 422."""
        opts = write_options(target, request)
        body = self._body(target, request, opts)
        if target.subresource == "scale":
            return await self._scale(target, encode(merge_of(target.res, body)), patching.MERGE_PATCH, opts), opts
        self._check_approval(target)
        changed = await self._objects.update(target.res, target.space, target.name, body, opts, target.subresource)
        return changed, opts

    async def patch(self, target: Target, request: Request) -> tuple[Json, bool, WriteOptions]:
        """Return (object, created, options). Raises 400, 403, 404, 409, 415, 422."""
        opts = write_options(target, request)
        kind = content_type(request) if "content-type" in request.headers else ""
        if kind in (JSON, YAML, "") or "protobuf" in kind or "cbor" in kind:
            accepted = ", ".join(patching.TYPES)
            text = f"a patch of type {kind or 'application/json'} is not read; the accepted types are {accepted}"
            raise ApiError(415, "UnsupportedMediaType", text)
        if opts.force and kind != patching.APPLY:
            raise bad_request("force may only be given with an apply patch")
        if target.subresource == "scale":
            if kind != patching.MERGE_PATCH:
                raise bad_request(f"a Scale is patched with {patching.MERGE_PATCH}")
            return await self._scale_patch(target, request, opts), False, opts
        self._check_approval(target)
        if kind == patching.APPLY:
            self._check_apply(target, request)
        elif not opts.field_manager:
            opts.field_manager = agent(request)
        changed, created = await self._objects.patch(
            target.res, target.space, target.name, request.body, kind, opts, target.subresource
        )
        return changed, created, opts

    async def delete(self, target: Target, request: Request) -> tuple[Json, DeleteOptions]:
        """Raises 400, 404, 409."""
        if target.subresource:
            raise method_not_supported(target.res)
        opts = delete_options(target, read_body(request, optional=True))
        return await self._objects.delete(target.res, target.space, target.name, opts), opts

    async def delete_collection(self, target: Target, request: Request) -> tuple[ListResult, DeleteOptions]:
        """Raises 400."""
        opts = delete_options(target, read_body(request, optional=True))
        selected = list_options(target.query)
        return await self._objects.delete_collection(target.res, target.namespace, selected, opts), opts

    def _body(self, target: Target, request: Request, opts: WriteOptions) -> Json:
        body = read_body(request)
        if not isinstance(body, dict):
            raise bad_request(f"the body must be a JSON object of kind {target.res.kind}")
        if opts.field_validation != "Ignore" and content_type(request) == JSON:
            opts.duplicates = duplicate_fields(request.body)
        if not opts.field_manager:
            opts.field_manager = agent(request)
        return body

    def _check_apply(self, target: Target, request: Request) -> None:
        """Applying what does not exist creates it: that right is asked for, too."""
        kind = request.headers.get("content-type", "")
        if "cbor" in kind:
            raise unreadable(kind)
        if not target.subresource and self._objects.store.get(target.res, target.space, target.name) is None:
            self._access.check(target.attributes("create"))

    def _check_approval(self, target: Target) -> None:
        """Approving a CSR needs the right to approve for its signer."""
        if target.subresource != "approval":
            return
        held = self._objects.get(target.res, target.space, target.name)
        signer = str(held["spec"].get("signerName", ""))
        names = (signer, f"{signer.partition('/')[0]}/*")
        named = [Attributes(target.user, "approve", target.res.group, SIGNERS, name=name) for name in names]
        if not any(self._access.why(one) for one in named):
            raise named[0].refusal()

    async def _scale(self, target: Target, patch: bytes, kind: str, opts: WriteOptions) -> Json:
        changed, _ = await self._objects.patch(target.res, target.space, target.name, patch, kind, opts)
        return to_scale(target.res, changed)

    async def _scale_patch(self, target: Target, request: Request, opts: WriteOptions) -> Json:
        patch = encode(merge_of(target.res, decode_json(request.body)))
        return await self._scale(target, patch, patching.MERGE_PATCH, opts)


def write_options(target: Target, request: Request) -> WriteOptions:
    """Read the options of a write. Raises 400."""
    query = target.query
    validation = query.text("fieldValidation") or "Warn"
    if validation not in VALIDATIONS:
        raise bad_request(f'invalid fieldValidation "{validation[:40]}": must be one of {", ".join(VALIDATIONS)}')
    del request
    return WriteOptions(
        field_manager=query.text("fieldManager"),
        field_validation=validation,
        dry_run=dry_run(query.all("dryRun")),
        force=query.flag("force"),
        user=target.user,
    )


def dry_run(values: list[str]) -> bool:
    """Raises 400 for anything but All."""
    wrong = [value for value in values if value != "All"]
    if wrong:
        raise bad_request(f'invalid dryRun "{wrong[0][:40]}": the only value is All')
    return bool(values)


def delete_options(target: Target, body: Any) -> DeleteOptions:
    """Read the options of a deletion out of its body and its query. Raises 400."""
    query = target.query
    sent: Json = dict(body) if isinstance(body, dict) else {}
    if (body is not None and not isinstance(body, dict)) or sent.get("kind") not in (None, "", "DeleteOptions"):
        raise bad_request("the body of a DELETE must be DeleteOptions")
    sent.setdefault("gracePeriodSeconds", query.number("gracePeriodSeconds"))
    sent.setdefault("propagationPolicy", query.text("propagationPolicy"))
    sent.setdefault("dryRun", query.all("dryRun"))
    if query.text("orphanDependents"):
        sent.setdefault("orphanDependents", query.flag("orphanDependents"))
    return read_delete_options(sent, target.user)


def read_delete_options(sent: Json, user: User) -> DeleteOptions:
    """Return the options in a DeleteOptions object. Raises 400 naming the field."""
    grace, dry = sent.get("gracePeriodSeconds"), sent.get("dryRun") or []
    conditions = {} if sent.get("preconditions") is None else sent["preconditions"]
    propagation, orphan = sent.get("propagationPolicy") or "", sent.get("orphanDependents")
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool) or grace < 0):
        raise bad_request(f"gracePeriodSeconds must be a whole number of seconds, not {grace!r:.40}")
    if not isinstance(conditions, dict):
        raise bad_request("preconditions must be an object with uid and resourceVersion")
    if not isinstance(dry, list) or not isinstance(propagation, str):
        raise bad_request("dryRun must be a list and propagationPolicy a string")
    if orphan is not None and not propagation:
        propagation = "Orphan" if orphan is True else "Background"
    return DeleteOptions(
        propagation=propagation,
        grace_period_s=grace,
        uid=str(conditions.get("uid") or ""),
        resource_version=str(conditions.get("resourceVersion") or ""),
        dry_run=dry_run([str(value) for value in dry]),
        user=user,
    )


def agent(request: Request) -> str:
    """Return the name that a client without fieldManager gets: its User-Agent up to the first slash."""
    return request.headers.get("user-agent", "unknown").partition("/")[0][:128] or "unknown"


def require_served(target: Target) -> None:
    """Raise 404 or 405 for a verb or subresource that the kind does not have."""
    res = target.res
    if target.subresource and target.subresource not in res.subresources:
        raise unknown_resource()
    if not target.subresource and target.verb not in res.verbs:
        raise method_not_supported(res)
    if target.name and target.verb == "create" and not target.subresource:
        raise method_not_supported(res)
    if not target.name and target.verb in ("update", "patch"):
        raise method_not_supported(res)
    if target.rest and target.subresource != "proxy":
        raise unknown_resource()
