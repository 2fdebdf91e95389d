"""The API's verbs on objects, in process. Every decision that depends on what is stored is made inside the transaction."""

from collections.abc import Callable, Sequence
from typing import Any

from kubeapi import bodies, deleting, listing, patching, versions, writing
from kubeapi import metadata as rules
from kubeapi.admission import Attempt, Hook, admit
from kubeapi.builtin import defaults, validate
from kubeapi.crds import refuse_while_terminating
from kubeapi.errors import already_exists, bad_request, forbidden, invalid, method_not_supported, not_found, too_large
from kubeapi.kinds import NAMESPACE
from kubeapi.options import DeleteOptions, ListOptions, ListResult, WriteOptions
from kubeapi.ownership import track_update, with_owners
from kubeapi.recording import Change, Record
from kubeapi.resources import Registry, Resource
from kubeapi.store import Store
from kubeapi.typing_rules import check_fields
from kubeapi.virtual_kinds import CONNECTIONS
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.database import Tx

__all__ = ["DeleteOptions", "ListOptions", "ListResult", "Objects", "WriteOptions"]

Json = dict[str, Any]
Make = Callable[[Tx, Json], Json]  # what is stored -> what shall be


class Objects:
    """Create, read, update, patch and delete, as the Kubernetes API does. Objects given and returned are plain JSON.

    ``admission`` begins with ``kubeapi.crds.Crds.admit`` where CRDs are served. Bodies are copied; what is returned is shared and must not be changed. ``need_namespaces`` False (the edge): a
    namespace exists without a Namespace object. ``record`` is told each change in its transaction (kubeapi.recording).
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        *,
        admission: Sequence[Hook] = (),
        rng: Rng | None = None,
        need_namespaces: bool = True,
        record: Record | None = None,
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.admission: list[Hook] = list(admission)
        self.rng = rng or Rng()
        self.need_namespaces = need_namespaces
        self.record = record

    # reading

    def get(self, res: Resource, namespace: str, name: str) -> Json:
        """Return the committed object. Raises 404."""
        found = self.store.get(res, namespace, name)
        if found is None:
            raise not_found(res, name)
        return found

    def list(self, res: Resource, namespace: str | None = None, opts: ListOptions | None = None) -> ListResult:
        """Return one page; ``namespace`` None is all of them. Raises 400, 410."""
        return listing.page(self.store, res, namespace, opts or ListOptions())

    # writing

    async def create(self, res: Resource, namespace: str, body: Json, opts: WriteOptions | None = None) -> Json:
        """Store a new object; durable on return. Raises 400, 403, 404 (namespace), 409, 422."""
        opts = opts or WriteOptions()
        draft = bodies.copy(body)
        writing.check_shape(res, namespace, draft)
        if draft["metadata"].get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        stored = await self.store.db.tx(lambda tx: self.create_in(tx, res, namespace, draft, opts))
        return versions.read(res, stored)

    def create_in(self, tx: Tx, res: Resource, namespace: str, draft: Json, opts: WriteOptions) -> Json:
        """As ``create``, inside a transaction, with a body that now belongs to the store."""
        generated = not draft["metadata"].get("name") and bool(draft["metadata"].get("generateName"))
        obj = writing.for_create(res, draft, self.clock.wall(), self.rng)
        name = obj["metadata"].get("name", "")
        while generated and self.store.peek(res, namespace, name) is not None:
            name = obj["metadata"]["name"] = rules.generated_name(obj["metadata"]["generateName"], self.rng)
        self._require_place(res, namespace)
        sent = obj
        obj = self._checked(res, obj, None, "", opts)
        if self.store.peek(res, namespace, name) is not None:
            raise already_exists(res, name)
        manager = writing.manager_name(opts.field_manager, opts.user)
        # before admission, as Kubernetes does: what the API adds is nobody's, so that a later apply does not take it away
        owned = track_update(res, {}, writing.without_made_up(res, obj, sent), manager, "", self.clock.wall())
        obj = self._admitted("CREATE", res, obj, None, "", opts)
        return self._store(tx, res, None, with_owners(obj, owned), opts)

    async def update(
        self,
        res: Resource,
        namespace: str,
        name: str,
        body: Json,
        opts: WriteOptions | None = None,
        subresource: str = "",
    ) -> Json:
        """Replace the object, or the part that ``subresource`` names. Raises 400, 404, 409, 422."""
        opts = opts or WriteOptions()
        self._require_subresource(res, subresource)
        draft = bodies.copy(body)
        writing.check_names_itself(draft, name)
        writing.check_shape(res, namespace, draft, name)

        def make(_tx: Tx, old: Json) -> Json:
            writing.check_conditional(res, draft, name)
            return writing.for_update(res, old, draft, subresource)

        return await self._change(res, namespace, name, make, opts, subresource)

    async def patch(
        self,
        res: Resource,
        namespace: str,
        name: str,
        patch: bytes,
        content_type: str,
        opts: WriteOptions | None = None,
        subresource: str = "",
    ) -> tuple[Json, bool]:
        """Apply a json, merge, strategic or apply patch; returns (object, created). Raises 400, 404, 409, 415, 422."""
        opts = opts or WriteOptions()
        self._require_subresource(res, subresource)
        if patching.is_apply(content_type):
            return await self._apply(res, namespace, name, patch, opts, subresource)
        change = patching.reader(res, patch, content_type, opts)

        def make(_tx: Tx, old: Json) -> Json:
            draft = change(old)
            writing.check_shape(res, namespace, draft, name)
            return writing.for_update(res, old, draft, subresource)

        return await self._change(res, namespace, name, make, opts, subresource), False

    async def _change(
        self, res: Resource, namespace: str, name: str, make: Make, opts: WriteOptions, subresource: str
    ) -> Json:
        def write(tx: Tx) -> Json:
            found = self.store.peek(res, namespace, name)
            if found is None:
                raise not_found(res, name)
            old = versions.read(res, found.object)
            new = make(tx, old)
            manager = writing.manager_name(opts.field_manager, opts.user)
            new = self._checked(res, new, old, subresource, opts)
            new = self._admitted("UPDATE", res, new, old, subresource, opts)
            new = track_update(res, old, new, manager, subresource, self.clock.wall())
            return self.settle(tx, res, old, new, opts)

        return versions.read(res, await self.store.db.tx(write))

    async def _apply(
        self, res: Resource, namespace: str, name: str, patch: bytes, opts: WriteOptions, subresource: str
    ) -> tuple[Json, bool]:
        config = patching.read_apply(res, patch, opts)
        writing.check_shape(res, namespace, config, name)

        def write(tx: Tx) -> tuple[Json, bool]:
            found = self.store.peek(res, namespace, name)
            if found is None:
                if subresource:
                    raise not_found(res, name)
                return self._apply_new(tx, res, namespace, config, opts), True
            old = versions.read(res, found.object)
            merged = patching.apply(res, old, config, opts, subresource, self.clock.wall())
            new = writing.for_update(res, old, merged, subresource)
            new = self._checked(res, new, old, subresource, opts)
            new = self._admitted("UPDATE", res, new, old, subresource, opts)
            return self.settle(tx, res, old, new, opts), False

        stored, created = await self.store.db.tx(write)
        return versions.read(res, stored), created

    def _apply_new(self, tx: Tx, res: Resource, namespace: str, config: Json, opts: WriteOptions) -> Json:
        self._require_place(res, namespace)
        merged = patching.apply(res, None, config, opts, "", self.clock.wall())
        obj = writing.for_create(res, merged, self.clock.wall(), self.rng)
        obj = self._checked(res, obj, None, "", opts)
        obj = self._admitted("CREATE", res, obj, None, "", opts)
        return self._store(tx, res, None, obj, opts)

    async def delete(self, res: Resource, namespace: str, name: str, opts: DeleteOptions | None = None) -> Json:
        """Delete, or mark for deletion while finalizers remain. Returns what Kubernetes answers. Raises 404, 409."""
        opts = opts or DeleteOptions()
        return await self.store.db.tx(lambda tx: self.delete_in(tx, res, namespace, name, opts))

    def delete_in(self, tx: Tx, res: Resource, namespace: str, name: str, opts: DeleteOptions) -> Json:
        """As ``delete``, inside a transaction."""
        return deleting.delete(self, tx, res, namespace, name, opts)

    async def delete_collection(
        self,
        res: Resource,
        namespace: str | None,
        list_opts: ListOptions | None = None,
        opts: DeleteOptions | None = None,
    ) -> ListResult:
        """Delete each object that the selectors select; returns them as they were."""
        found = self.list(res, namespace, list_opts)
        opts = opts or DeleteOptions()

        def write(tx: Tx) -> None:
            for item in found.at_rest:
                if self.store.peek(res, item.namespace, item.name) is not None:
                    deleting.delete(self, tx, res, item.namespace, item.name, opts)

        await self.store.db.tx(write)
        return found

    # shared steps, inside a transaction

    def settle(self, tx: Tx, res: Resource, old: Json, new: Json, opts: WriteOptions | DeleteOptions) -> Json:
        """Store the outcome of a change: nothing when nothing changed, a removal when its last finalizer went."""
        if res.generation and writing.spec_changed(old, new):
            new["metadata"] = dict(new["metadata"], generation=old["metadata"].get("generation", 0) + 1)
        metadata = new["metadata"]
        if "deletionTimestamp" in metadata and deleting.may_go(res, new):
            if not opts.dry_run:
                self.note(tx, Change(res, old, new, opts, gone=True))
                self.store.remove(tx, res, metadata.get("namespace", ""), metadata["name"])
            return versions.write(res, new)
        if _same(old, new):
            return versions.write(res, old)
        return self._store(tx, res, old, new, opts)

    def note(self, tx: Tx, change: Change) -> Json:
        """Tell ``record`` of a change; returns what to store."""
        kept = None if self.record is None else self.record(tx, change)
        return change.after if kept is None else kept

    def _store(self, tx: Tx, res: Resource, before: Json | None, obj: Json, opts: WriteOptions | DeleteOptions) -> Json:
        if opts.dry_run:
            return versions.write(res, obj)
        obj = self.note(tx, Change(res, before, obj, opts))
        stored = self.store.put(tx, res, versions.write(res, obj))
        written = self.store.peek(res, stored["metadata"].get("namespace", ""), stored["metadata"]["name"])
        if written is not None and len(written.body) > bodies.MAX_OBJECT_BYTES:
            raise too_large(bodies.MAX_OBJECT_BYTES)  # which takes the write back
        return stored

    def _checked(self, res: Resource, obj: Json, old: Json | None, subresource: str, opts: WriteOptions) -> Json:
        """Return ``obj`` pruned, defaulted and valid. Raises 400, 422."""
        if res.deprecated:
            opts.warn(res.deprecated)
        if not res.custom:
            obj = defaults(res, obj, old)
        obj = check_fields(res, obj, old, subresource, opts)
        name = obj["metadata"].get("name", "")
        wrong = rules.causes(res, obj["metadata"]) if old is None or old["metadata"] != obj["metadata"] else []
        if not res.custom and (
            old is None or writing.spec_changed(old, obj)
        ):  # what was stored under older rules still works
            wrong += validate(res, obj)
        if wrong:
            raise invalid(res, name, wrong)
        if old is not None:
            writing.check_immutable(res, old, obj, subresource)
        return obj

    def _admitted(
        self, verb: str, res: Resource, obj: Json, old: Json | None, subresource: str, opts: WriteOptions
    ) -> Json:
        metadata = obj["metadata"]
        where = (metadata.get("namespace", ""), metadata["name"], subresource)
        attempt = Attempt(verb, res, *where, obj, old, opts.user, opts.dry_run, opts.warn)
        admitted = admit(self.admission, attempt)
        assert admitted is not None
        return admitted

    def _require_place(self, res: Resource, namespace: str) -> None:
        if res.custom:
            refuse_while_terminating(self.store, res)
        if not res.namespaced or not self.need_namespaces:
            return
        if not namespace:
            raise bad_request(f"an empty namespace may not be set during creation of {res.plural}")
        found = self.store.peek(NAMESPACE, "", namespace)
        if found is None:
            raise not_found(NAMESPACE, namespace)
        if "deletionTimestamp" in found.object["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = forbidden(res, "", why)
            error.details["causes"] = [
                {"reason": "NamespaceTerminating", "message": why, "field": "metadata.namespace"}
            ]
            raise error

    def _require_subresource(self, res: Resource, subresource: str) -> None:
        if subresource and (subresource not in res.subresources or subresource in CONNECTIONS):
            raise method_not_supported(res, f"{res.plural} has no subresource {subresource}")


def _same(old: Json, new: Json) -> bool:
    return old == new
