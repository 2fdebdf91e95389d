"""The collector over any graph of owners."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeapi.objects import DeleteOptions
from tests.unit.kubeapi.api import CM, Api

Json = dict[str, Any]
SIZE = 8
# for each object, which earlier ones own it
graphs = st.tuples(*(st.sets(st.integers(0, max(0, i - 1)), max_size=2 if i else 0) for i in range(SIZE)))


def body(index: int, owners: list[Json]) -> Json:
    refs = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}
        for o in owners
    ]
    return {"metadata": {"name": f"c{index}", **({"ownerReferences": refs} if refs else {})}}


def survivors(graph: tuple[set[int], ...], deleted: set[int]) -> list[str]:
    alive: set[int] = set()
    for index, owners in enumerate(graph):  # owners come before what they own
        if index not in deleted and (not owners or owners & alive):
            alive.add(index)
    return [f"c{i}" for i in sorted(alive)]


async def run(
    graph: tuple[set[int], ...], deleted: list[int], policy: str, *, late: bool
) -> tuple[list[str], list[Json]]:
    with tempfile.TemporaryDirectory() as folder:
        api = await Api.open(Path(folder))
        if not late:
            await api.controllers.start()
        made: list[Json] = []
        for index, owners in enumerate(graph):
            made.append(await api.create(CM, body(index, [made[o] for o in sorted(owners)])))
        for index in deleted:
            if api.store.get(CM, "default", f"c{index}") is not None:
                await api.objects.delete(CM, "default", f"c{index}", DeleteOptions(propagation=policy))
        if late:
            await api.controllers.start()
        await api.controllers.settle()
        left = api.objects.list(CM).items
        await api.close()
        return [o["metadata"]["name"] for o in left], left


@settings(max_examples=15, deadline=None)
@given(
    graphs, st.sets(st.integers(0, SIZE - 1), max_size=4), st.sampled_from(["Background", "Foreground"]), st.booleans()
)
def test_what_has_a_living_owner_or_none_stays_and_nothing_else(  # API-10
    graph: tuple[set[int], ...], deleted: set[int], policy: str, late: bool
) -> None:
    names, left = asyncio.run(run(graph, sorted(deleted), policy, late=late))

    assert names == survivors(graph, deleted)
    for obj in left:
        owners = {o["name"] for o in obj["metadata"].get("ownerReferences", ())}
        assert owners <= set(names)


@settings(max_examples=8, deadline=None)
@given(graphs, st.integers(0, SIZE - 1))
def test_orphaning_deletes_one_object_only(graph: tuple[set[int], ...], index: int) -> None:  # API-10
    names, left = asyncio.run(run(graph, [index], "Orphan", late=False))

    assert names == [f"c{i}" for i in range(SIZE) if i != index]
    owners = {ref["name"] for o in left for ref in o["metadata"].get("ownerReferences", ())}
    assert f"c{index}" not in owners
