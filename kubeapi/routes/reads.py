"""get and list: one object or a page, as objects, tables or metadata."""

from datetime import datetime
from typing import Any

from kubeapi import tables
from kubeapi.errors import bad_request
from kubeapi.http import Request, Response
from kubeapi.objects import ListOptions, ListResult, Objects
from kubeapi.resources import Resource
from kubeapi.routes.negotiation import JSON, Wanted, answer, pretty
from kubeapi.routes.target import Query, Target
from kubeapi.scaling import to_scale
from kubeapi.stored import encode
from kubeapi.versions import read_stored

MAX_PAGE = 100_000


def get(objects: Objects, target: Target, request: Request, asked: Wanted, now: datetime) -> Response:
    """Answer GET of one object. Raises 404."""
    res = target.res
    if target.subresource == "scale":
        return answer(request, asked, to_scale(res, objects.get(res, target.space, target.name)))
    if not asked.transform and asked.format == JSON:
        found = objects.store.stored(res, target.space, target.name)
        if found is not None:  # the bytes at rest are the answer
            return Response(200, JSON, body=pretty(request, read_stored(res, found).body))
    found_object = objects.get(res, target.space, target.name)
    return answer(request, asked, shaped(res, found_object, asked, target.query, now))


def shaped(res: Resource, obj: dict[str, Any], asked: Wanted, query: Query, now: datetime) -> dict[str, Any]:
    """Return one object in the shape that was asked for."""
    if asked.transform == "Table":
        metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        include = included(query)
        return tables.table(res, [obj], now=now, version=asked.version, include=include, metadata=metadata)
    if asked.transform == "PartialObjectMetadata":
        return tables.partial(obj, asked.version)
    return obj


def included(query: Query) -> str:
    """Return what each table row carries of its object. Raises 400."""
    include = query.text("includeObject") or "Metadata"
    if include not in ("None", "Metadata", "Object"):
        raise bad_request(f'invalid includeObject "{include[:40]}": must be None, Metadata or Object')
    return include


def list_options(query: Query) -> ListOptions:
    """Read selectors, paging and versions out of the query. Raises 400."""
    return ListOptions(
        label_selector=query.text("labelSelector"),
        field_selector=query.text("fieldSelector"),
        limit=min(query.number("limit") or 0, MAX_PAGE),
        continue_=query.text("continue"),
        resource_version=query.text("resourceVersion"),
        match=query.text("resourceVersionMatch"),
    )


def list_(objects: Objects, target: Target, request: Request, asked: Wanted, now: datetime) -> Response:
    """Answer GET of a collection. Raises 400, 410."""
    found = objects.list(target.res, target.namespace, list_options(target.query))
    if not asked.transform and asked.format == JSON:
        return Response(200, JSON, body=pretty(request, _list_bytes(found)))
    return answer(request, asked, shaped_list(found, asked, target.query, now))


def shaped_list(found: ListResult, asked: Wanted, query: Query, now: datetime) -> dict[str, Any]:
    """Return a page in the shape that was asked for."""
    res, metadata = found.res, _metadata(found)
    if asked.transform == "Table":
        include = included(query)
        return tables.table(res, found.items, now=now, version=asked.version, include=include, metadata=metadata)
    if asked.transform == "PartialObjectMetadataList":
        return tables.partial_list(found.items, metadata, asked.version)
    return {"kind": res.list_kind, "apiVersion": res.api_version, "metadata": metadata, "items": found.items}


def _metadata(found: ListResult) -> dict[str, Any]:
    out: dict[str, Any] = {"resourceVersion": str(found.revision)}
    if found.continue_:
        out["continue"] = found.continue_
    if found.remaining is not None:
        out["remainingItemCount"] = found.remaining
    return out


def _list_bytes(found: ListResult) -> bytes:
    """Return the list as JSON out of the items' bytes at rest, without decoding one."""
    res = found.res
    head = encode({"kind": res.list_kind, "apiVersion": res.api_version, "metadata": _metadata(found)})
    return b'%b,"items":[%b]}' % (head[:-1], b",".join(item.body for item in found.stored))
