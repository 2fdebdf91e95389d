import pytest

from kubeapi import kinds, selectors
from kubeapi.errors import ApiError
from kubeapi.stored import Event
from tests.unit.kubeapi.api import CM, Api


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("app=web", True),
        ("app==web,tier!=db", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("app in (web, api)", True),
        ("app notin (web)", False),
        ("missing notin (a)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("replicas>2", True),
        ("replicas<3", False),
        ("example.io/x=1", True),
        ("app in (a,b),tier", False),
        ("", True),
    ],
)
def test_label_selectors_select_as_kubernetes_does(text: str, selected: bool) -> None:
    labels = {"app": "web", "tier": "front", "replicas": "3", "example.io/x": "1"}
    match = selectors.label_selector(text)
    assert (match is None or match({"metadata": {"labels": labels}})) is selected


@pytest.mark.parametrize("text", ["a b", "=x", "a in b", "(a)", "a=b c", "a>x", "-/=1", "a in (b"])
def test_a_label_selector_that_cannot_be_read_is_a_400(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        selectors.label_selector(text)
    assert refused.value.status == 400


def test_field_selectors_know_their_fields() -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    match = selectors.field_selector(kinds.POD, r"spec.nodeName=n1,status.phase!=Failed")
    assert match is not None
    assert match(pod)
    with pytest.raises(ApiError, match=r"field label not supported: spec\.color"):
        selectors.field_selector(kinds.POD, "spec.color=red")


def test_event_source_selects_by_component() -> None:
    match = selectors.field_selector(kinds.EVENT, "source=kubelet")
    assert match is not None
    assert match({"metadata": {}, "source": {"component": "kubelet"}})


async def test_a_watch_with_a_selector_sees_entering_and_leaving(api: Api) -> None:
    match = selectors.label_selector("on=yes")
    watch = api.store.watch(CM, None, api.store.revision)
    await api.create(CM, {"metadata": {"name": "a"}})
    for value in ("yes", "yes2", "yes", None):
        await api.patch(CM, "a", {"metadata": {"labels": {"on": value}}})
    await api.objects.delete(CM, "default", "a")

    seen: list[Event] = selectors.select_events(await watch.batch(), match)

    assert [e.type for e in seen] == ["ADDED", "DELETED", "ADDED", "DELETED"]
