"""Lists in pages. A later page reads the state of now and keeps the first page's revision, so a watch from it misses nothing."""

import base64
import binascii

import msgspec

from kubeapi import selectors
from kubeapi.errors import ApiError, bad_request, gone
from kubeapi.options import ListOptions, ListResult
from kubeapi.resources import Resource
from kubeapi.store import Store
from kubeapi.stored import Stored


class _Token(msgspec.Struct, array_like=True):
    revision: int
    namespace: str
    name: str


def encode_token(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def decode_token(text: str) -> _Token:
    """Read back a continue token. Raises 400."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise bad_request("continue key is not valid: take it from the last list response, unchanged") from error


def parse_revision(text: str) -> int:
    """Read a resourceVersion; "" is 0. Raises 400."""
    if text in ("", "0"):
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise bad_request(f'invalid resourceVersion "{text[:40]}": must be a number from an earlier response')
    return int(text)


def _check_revision(store: Store, opts: ListOptions) -> None:
    revision = parse_revision(opts.resource_version)
    if opts.match not in ("", "Exact", "NotOlderThan"):
        raise bad_request(f'resourceVersionMatch "{opts.match}" is not supported: Exact, NotOlderThan')
    if opts.match and not opts.resource_version:
        raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if revision > store.revision:
        text = f"Too large resource version: {revision}, current: {store.revision}"
        raise ApiError(504, "Timeout", text, {"causes": [{"reason": "ResourceVersionTooLarge", "message": text}]})
    if opts.match == "Exact" and revision != store.revision:
        raise gone(f"resourceVersion {revision} is no longer held: only the newest state can be listed exactly")


def page(store: Store, res: Resource, namespace: str | None, opts: ListOptions) -> ListResult:
    """Return one page. Raises 400, 410."""
    match = selectors.selector(res, opts.label_selector, opts.field_selector)
    revision, after = store.revision, ("", "")
    if opts.continue_:
        token = decode_token(opts.continue_)
        if not store.remembers(token.revision):
            raise gone("The provided continue parameter is too old to display a consistent list result; list again")
        revision, after = token.revision, (token.namespace, token.name)
    else:
        _check_revision(store, opts)
    found: list[Stored] = []
    matched = _named(store, res, namespace, opts.field_selector)
    candidates = store.items(res, namespace) if matched is None else iter(matched)
    for item in candidates:
        if (item.namespace, item.name) <= after and opts.continue_:
            continue
        if match is None or match(item.object):
            found.append(item)
            if opts.limit and len(found) > opts.limit:
                break
    if not opts.limit or len(found) <= opts.limit:
        return ListResult(res, found, revision)
    found.pop()
    last = found[-1]
    token_text = encode_token(_Token(revision, last.namespace, last.name))
    remaining = None
    if match is None:
        remaining = sum(1 for i in store.items(res, namespace) if (i.namespace, i.name) > (last.namespace, last.name))
    return ListResult(res, found, revision, token_text, remaining)


def _named(store: Store, res: Resource, namespace: str | None, fields: str) -> list[Stored] | None:
    """Return the candidates when the selector names one object (kubectl wait, informers): no scan of everything."""
    if namespace is None and res.namespaced:
        return None
    names = [value for path, equal, value in selectors.field_terms(res, fields) if path == "metadata.name" and equal]
    if not names:
        return None
    one = store.stored(res, namespace or "", names[0])
    return [one] if one is not None else []
