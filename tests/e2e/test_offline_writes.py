"""Five hundred writes by kubectl at a gateway whose link is cut, while the cloud changes some of the same objects, with a
SIGKILL in the middle: afterwards each is applied or reported as a conflict (LOCAL-4, LOCAL-7, LOCAL-10, LOCAL-11)."""

import asyncio
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kit.kubectl import VERSIONS, Kubectl
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually

NODE = "gw-1"
OLD, MIDDLE, NEW = SPREAD = (VERSIONS[0], "1.31", VERSIONS[-1])
LABELS = {"edge.skerry.io/node": NODE}
Json = dict[str, Any]
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "recipes.mill.example.com", "labels": {"edge.skerry.io/sync": "labelled"}},
    "spec": {
        "group": "mill.example.com",
        "scope": "Namespaced",
        "names": {"plural": "recipes", "singular": "recipe", "kind": "Recipe", "listKind": "RecipeList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"heat": {"type": "integer"}, "note": {"type": "string"}},
                            }
                        },
                    }
                },
            }
        ],
    },
}
MAY_BAKE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "bakers", "labels": {"rbac.authorization.k8s.io/aggregate-to-node-admin": "true"}},
    "rules": [{"apiGroups": ["mill.example.com"], "resources": ["recipes"], "verbs": ["*"]}],
}
MODEL = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "DeviceModel",
    "metadata": {"name": "thermo", "namespace": "default"},
    "spec": {"protocol": "mqtt", "properties": [{"name": "temp", "type": "STRING", "accessMode": "ReadWrite"}]},
}


@dataclass
class Op:
    """One write at the gateway: where it shows, what it should say, and whether the cloud must have refused it."""

    key: str  # kind/name
    path: tuple[str, ...]  # () is the object itself
    value: Any  # None: absent
    conflict: bool = False


@dataclass
class Site:
    """One gateway and its office, each with its own kubectl; ``ops`` is everything that was written at the gateway."""

    platform: Platform
    edge: Edge
    here: dict[str, Kubectl]
    office: Kubectl
    ops: list[Op] = field(default_factory=list)

    async def write(self, version: str, words: str, ops: Iterable[Op], docs: Iterable[Json] = ()) -> None:
        """One kubectl at the gateway, for as many objects as its command line or its file names."""
        self.ops += ops
        await done(self.here[version], words, docs)

    def waiting(self) -> int:
        with closing(sqlite3.connect(self.edge.data_dir / "edge.db")) as conn:
            (count,) = conn.execute("SELECT count(*) FROM pending_write WHERE outcome = ''").fetchone()
        return int(count)


async def done(kubectl: Kubectl, words: str, docs: Iterable[Json] = ()) -> str:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(docs)})
    found = await asyncio.to_thread(kubectl.run, words, text)
    assert found.returncode == 0, f"{words}: {found.stderr}"
    return found.stdout


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": LABELS}, "data": data}


def workload(name: str, replicas: int = 0) -> Json:
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "mill/saw:1"}]}}
    pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": NODE}  # type: ignore[index]
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": LABELS}, "spec": spec}


def service(name: str) -> Json:
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": LABELS}, "spec": spec}


def recipe(name: str, heat: int = 1) -> Json:
    metadata = {"name": name, "labels": LABELS}
    return {"apiVersion": "mill.example.com/v1", "kind": "Recipe", "metadata": metadata, "spec": {"heat": heat}}


def device(name: str) -> Json:
    spec = {"nodeName": NODE, "deviceModelRef": {"name": "thermo"}, "properties": [desired("20")]}
    return {"apiVersion": MODEL["apiVersion"], "kind": "Device", "metadata": {"name": name}, "spec": spec}


def desired(value: str) -> Json:
    return {"name": "temp", "desired": {"value": value}}


def pod(name: str) -> Json:
    spec = {"nodeName": NODE, "containers": [{"name": "main", "image": "mill/saw:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": LABELS}, "spec": spec}


def names(prefix: str, count: int, first: int = 0) -> list[str]:
    return [f"{prefix}-{number}" for number in range(first, first + count)]


@pytest.fixture
async def site(tmp_path: Path) -> Any:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        edge = await platform.add_edge(NODE, "pods.runtime=none")
        config = tmp_path / "edge.kubeconfig"
        await command("edgecore", "kubectl-config", "--data-dir", str(edge.data_dir), "--out", str(config))
        here = {version: Kubectl(version, config, tmp_path / f"home-{version}") for version in SPREAD}
        office = Kubectl(MIDDLE, platform.cloud_dir / "admin.kubeconfig", tmp_path / "home-office")
        found = Site(platform, edge, here, office)
        await seeded(found)
        yield found


async def seeded(site: Site) -> None:
    """What the gateway has before the link is cut."""
    await done(site.office, "create -f -", [CRD, MAY_BAKE, MODEL])
    await done(site.office, "wait --for=condition=Established crd/recipes.mill.example.com")
    docs = [config_map(name, a="0", b="0") for name in names("cm", 60)]
    docs += [workload(name) for name in names("web", 15)] + [service(name) for name in names("svc", 15)]
    docs += [recipe(name) for name in names("recipe", 15)] + [device(name) for name in names("kiln", 15)]
    docs += [pod(name) for name in names("pod", 10)]
    await done(site.office, "create -f -", docs)
    kinds = "configmaps,deployments,services,recipes,devices,pods"

    async def there() -> bool:
        found = await asyncio.to_thread(site.here[MIDDLE].run, f"get {kinds} -o name")
        listed = set(found.stdout.split())
        return found.returncode == 0 and len(listed) >= 130

    await eventually(there, 30.0)


async def create(site: Site) -> None:
    """160 objects made at the gateway; three of them are made in the office, too, with other content."""
    first, second = names("new-cm", 60), names("new-web", 20)
    clash = {"new-cm-0", "new-cm-1", "new-cm-2"}
    ops = [Op(f"ConfigMap/{n}", ("data", "made"), "here", conflict=n in clash) for n in first]
    await site.write(OLD, "create -f -", ops, [config_map(n, made="here") for n in first])
    ops = [Op(f"Deployment/{n}", ("spec", "replicas"), 0) for n in second]
    await site.write(MIDDLE, "apply -f -", ops, [workload(n) for n in second])
    ops = [Op(f"Service/{n}", ("spec", "selector", "app"), n) for n in names("new-svc", 20)]
    await site.write(NEW, "apply -f -", ops, [service(n) for n in names("new-svc", 20)])
    ops = [Op(f"Recipe/{n}", ("spec", "heat"), 7) for n in names("new-recipe", 20)]
    await site.write(NEW, "apply --server-side -f -", ops, [recipe(n, 7) for n in names("new-recipe", 20)])
    ops = [Op(f"Device/{n}", ("spec", "nodeName"), NODE) for n in names("new-kiln", 20)]
    await site.write(OLD, "create -f -", ops, [device(n) for n in names("new-kiln", 20)])
    ops = [Op(f"Pod/{n}", ("spec", "nodeName"), NODE) for n in names("new-pod", 20)]
    await site.write(MIDDLE, "create -f -", ops, [pod(n) for n in names("new-pod", 20)])


async def change(site: Site) -> None:
    """What is there already is changed in every way that kubectl has; every fifth ConfigMap is changed in the office, too."""
    clash = {f"cm-{n}" for n in range(0, 40, 5)}
    ops = [Op(f"ConfigMap/{n}", ("data", "a"), "edge", conflict=n in clash) for n in names("cm", 40)]
    await site.write(MIDDLE, "apply -f -", ops, [config_map(n, a="edge", b="0") for n in names("cm", 40)])
    for kind, plain in (("ConfigMap", "cm"), ("Deployment", "web"), ("Service", "svc")):
        picked = names(plain, 15, first=0 if plain != "cm" else 40)
        listed = " ".join(picked)
        ops = [Op(f"{kind}/{n}", ("metadata", "labels", "shift"), "night") for n in picked]
        await site.write(NEW, f"label {kind.lower()} {listed} shift=night", ops)
        ops = [Op(f"{kind}/{n}", ("metadata", "annotations", "mill/by"), "ann") for n in picked]
        await site.write(OLD, f"annotate {kind.lower()} {listed} mill/by=ann", ops)
    await scale(site)
    await patch(site)


async def scale(site: Site) -> None:
    """Four of the Deployments are scaled in the office, too; scaling what was made here is a write upon a write."""
    clash = {"web-0", "web-1", "web-2", "web-3"}
    ops = [Op(f"Deployment/{n}", ("spec", "replicas"), 1, conflict=n in clash) for n in names("web", 8)]
    await site.write(MIDDLE, f"scale deployment {' '.join(names('web', 8))} --replicas=1", ops)
    ops = [Op(f"Deployment/{n}", ("spec", "replicas"), 1) for n in names("new-web", 4)]
    await site.write(NEW, f"scale deployment {' '.join(names('new-web', 4))} --replicas=1", ops)
    image = ("spec", "template", "spec", "containers", "main", "image")
    ops = [Op(f"Deployment/{n}", image, "mill/saw:2") for n in names("web", 15)]
    await site.write(OLD, f"set image deployment {' '.join(names('web', 15))} main=mill/saw:2", ops)


async def patch(site: Site) -> None:
    """Single patches, as an editor sends them: strategic, merge, JSON; the office patches some of the same fields."""
    for n in range(10):
        body = json.dumps({"spec": {"heat": 100 + n, "note": "edge"}})
        op = Op(f"Recipe/recipe-{n}", ("spec", "heat"), 100 + n, conflict=n < 3)
        await site.write(MIDDLE, f"patch recipe recipe-{n} --type=merge -p '{body}'", [op])
    for n in range(10):
        body = json.dumps([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": str(60 + n)}])
        path = ("spec", "properties", "temp", "desired", "value")
        op = Op(f"Device/kiln-{n}", path, str(60 + n), conflict=n < 3)
        await site.write(NEW, f"patch device kiln-{n} --type=json -p '{body}'", [op])
    for n in range(10):
        body = json.dumps({"spec": {"ports": [{"name": "http", "port": 80 + n}]}}) if n else "{}"
        if n:
            where = ("spec", "ports", "http", "port")
            await site.write(
                OLD, f"patch service svc-{n} --type=merge -p '{body}'", [Op(f"Service/svc-{n}", where, 80 + n)]
            )


async def remove(site: Site) -> None:
    """Old and new objects are deleted; two of them were changed in the office meanwhile, two are gone there already."""
    gone = names("cm", 20, first=40)
    ops = [Op(f"ConfigMap/{n}", (), None, conflict=n in {"cm-58", "cm-59"}) for n in gone]
    await site.write(MIDDLE, f"delete configmap {' '.join(gone)}", ops)
    for kind, picked in (
        ("Service", names("new-svc", 10)),
        ("Recipe", names("new-recipe", 10)),
        ("Device", names("new-kiln", 10)),
    ):
        await site.write(
            NEW, f"delete {kind.lower()} {' '.join(picked)}", [Op(f"{kind}/{n}", (), None) for n in picked]
        )
    picked = names("pod", 5)
    await site.write(
        OLD, f"delete pod {' '.join(picked)} --force --grace-period=0", [Op(f"Pod/{n}", (), None) for n in picked]
    )


async def fill(site: Site, total: int) -> None:
    """The rest: keys of ConfigMaps that were made here, many times over."""
    turn = 0
    while len(site.ops) < total:
        picked = names("new-cm", min(50, total - len(site.ops)), first=3)
        ops = [Op(f"ConfigMap/{n}", ("metadata", "labels", f"turn-{turn}"), "x") for n in picked]
        await site.write(SPREAD[turn % 3], f"label configmap {' '.join(picked)} turn-{turn}=x", ops)
        turn += 1


async def office_works(site: Site) -> None:
    """What the cloud changes while the gateway is cut off."""
    await done(site.office, "create -f -", [config_map(n, made="office") for n in names("new-cm", 3)])
    for n in range(0, 40, 5):
        await done(site.office, f'patch configmap cm-{n} --type=merge -p \'{{"data":{{"a":"office"}}}}\'')
    docs = [config_map(n, a="0", b="office") for n in names("cm", 5, first=1) if n != "cm-5"]
    await done(site.office, "replace -f -", docs)  # another key than the gateway's: both stay
    await done(site.office, f"scale deployment {' '.join(names('web', 4))} --replicas=2")
    for n in range(3):
        await done(site.office, f'patch recipe recipe-{n} --type=merge -p \'{{"spec":{{"heat":{900 + n}}}}}\'')
        body = json.dumps([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": str(90 + n)}])
        await done(site.office, f"patch device kiln-{n} --type=json -p '{body}'")
    for n in (58, 59):
        await done(site.office, f'patch configmap cm-{n} --type=merge -p \'{{"data":{{"b":"office"}}}}\'')
    await done(site.office, "delete pod pod-0 --force --grace-period=0")


@pytest.mark.timeout(240)
async def test_five_hundred_writes_of_an_outage_are_applied_or_reported_one_by_one(site: Site) -> None:
    site.edge.cut()
    await create(site)
    await change(site)
    await site.edge.kill()
    await office_works(site)
    await site.edge.start()
    assert site.waiting() == len(site.ops)

    await remove(site)
    await fill(site, 500)
    assert site.waiting() == len(site.ops) == 500
    assert len((await edgecore(site, "pending"))["items"]) == 500
    site.edge.mend()
    await site.edge.connected()
    await killed_on_the_way(site)
    await eventually(lambda: site.waiting() == 0, 60.0)

    await check(site)
    await mended_by_hand(site)


async def killed_on_the_way(site: Site) -> None:
    """Both ends are killed while the answers come in: what was answered stays so, the rest goes on."""
    await eventually(lambda: site.waiting() < 450, 30.0)
    await site.platform.cloud.kill()
    await site.edge.kill()
    await site.platform.start_cloud()
    await site.edge.start()
    await site.edge.connected(30.0)


async def edgecore(site: Site, *words: str) -> Json:
    found: Json = json.loads(await command("edgecore", *words, "-o", "json", "--data-dir", str(site.edge.data_dir)))
    return found


async def mended_by_hand(site: Site) -> None:
    """One conflict is made again over what is there now, one is dropped; both are gone then, here and in the office."""
    refused = {(each["kind"], each["name"]): each for each in (await edgecore(site, "conflicts", "list"))["items"]}
    again, dropped = refused["ConfigMap", "cm-0"], refused["ConfigMap", "cm-5"]
    shown = await edgecore(site, "conflicts", "show", again["conflict"])
    assert (shown["mine"]["data"]["a"], shown["theirs"]["data"]["a"]) == ("edge", "office")
    port = ("--set", f"local_api.port={site.edge.local_port}")
    for verb, which in (("retry", again), ("drop", dropped)):
        await command("edgecore", "conflicts", verb, which["conflict"], *port, "--data-dir", str(site.edge.data_dir))

    async def settled() -> bool:
        left = [each["conflict"] for each in (await edgecore(site, "conflicts", "list"))["items"]]
        kept = (await done(site.office, "get writeconflicts -o name")).split()
        names = {which["conflict"].rpartition("/")[2] for which in (again, dropped)}
        return not names & {name.rpartition("/")[2] for name in (*left, *kept)} and site.waiting() == 0

    await eventually(settled, 20.0)
    value = await done(site.office, "get configmap cm-0 cm-5 -o jsonpath={.items[*].data.a}")
    assert value == "edge office"


async def check(site: Site) -> None:
    """Every write, one by one, against the office's objects and its list of conflicts."""
    kinds = "configmaps,deployments,services,recipes,devices,pods,writeconflicts"
    listed = json.loads(await done(site.office, f"get {kinds} -o json"))["items"]
    found = {f"{each['kind']}/{each['metadata']['name']}": each for each in listed if each["kind"] != "WriteConflict"}
    refused = [each["spec"] for each in listed if each["kind"] == "WriteConflict"]
    expected = sorted(op.key for op in site.ops if op.conflict)
    told = sorted(f"{spec['target']['kind']}/{spec['target']['name']}" for spec in refused)
    assert told == expected, [
        spec for spec in refused if f"{spec['target']['kind']}/{spec['target']['name']}" not in expected
    ]
    final = {(op.key, op.path): op for op in site.ops}
    removed = {op.key for op in site.ops if op.path == () and not op.conflict}
    for op in site.ops:
        if op.conflict:
            assert_kept(op, found, refused)
        elif final[op.key, op.path] is op and (op.key not in removed or op.path == ()):
            assert at(found.get(op.key), op.path) == op.value, (op, found.get(op.key))
    assert at(found["ConfigMap/cm-1"], ("data", "b")) == "office"
    await same_at_the_gateway(site, found)


def assert_kept(op: Op, found: dict[str, Json], refused: list[Json]) -> None:
    """The office's version stands, and the conflict has both."""
    kind, _, name = op.key.partition("/")
    (spec,) = [each for each in refused if (each["target"]["kind"], each["target"]["name"]) == (kind, name)]
    assert spec["outcome"] == "conflict", spec
    assert spec["theirs"]["metadata"]["name"] == name
    if op.path:
        assert at(spec["mine"], op.path) == op.value
        assert at(found[op.key], op.path) != op.value
    else:
        assert op.key in found


def at(obj: Any, path: tuple[str, ...]) -> Any:
    """The value at ``path``; a step into a list is a name."""
    for step in path:
        if isinstance(obj, list):
            obj = next((item for item in obj if item.get("name") == step), None)
        else:
            obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


async def same_at_the_gateway(site: Site, found: dict[str, Json]) -> None:
    """The gateway shows what the office has, and nothing is pending there."""

    async def same() -> bool:
        listed = json.loads(await done(site.here[MIDDLE], "get configmaps,services,recipes -o json"))["items"]
        here = {f"{each['kind']}/{each['metadata']['name']}": each for each in listed}
        mine = {key: content(each) for key, each in here.items() if not key.endswith("kube-root-ca.crt")}
        theirs = {
            key: content(each)
            for key, each in found.items()
            if key in mine or key.startswith(("ConfigMap/cm", "Recipe/"))
        }
        return mine == theirs and all("pending-write" not in json.dumps(each["metadata"]) for each in here.values())

    await eventually(same, 20.0)
    shown = await edgecore(site, "conflicts", "list")
    assert len(shown["items"]) == sum(op.conflict for op in site.ops)


def content(obj: Json) -> Json:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")} | {
        "labels": obj["metadata"].get("labels")
    }
