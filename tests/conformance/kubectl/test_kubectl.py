"""The table of kubectl commands, each by every supported version, against the embedded API over TLS."""

import base64
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kit.api import ServingApi, api_in_thread
from tests.kit.kubectl import VERSIONS, Kubectl, until

HERE = Path(__file__).parent
MANIFESTS = HERE / "manifests"
PATTERN_FLAGS = re.MULTILINE
MINIMUM_COMMANDS = 60


@dataclass(frozen=True)
class Case:
    """One row of ``commands.toml``; the file's head explains the fields."""

    name: str
    run: str
    files: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    stdin: str = ""
    env: dict[str, str] = field(default_factory=dict)
    exit: int = 0
    out: str = ""
    err: str = ""
    absent: str = ""
    then: list[list[str]] = field(default_factory=list)
    during: list[str] = field(default_factory=list)
    owned: bool = False  # a ConfigMap "child" belongs to the ConfigMap "owner"
    event: bool = False  # an Event is about the ConfigMap "settings"
    csr: str = ""


CASES = [Case(**row) for row in tomllib.loads((HERE / "commands.toml").read_text())["case"]]


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingApi]:
    with api_in_thread(tmp_path_factory.mktemp("api")) as serving:
        yield serving


class Run:
    """One case by one version: its namespace, its directory of manifests, its fresh home."""

    def __init__(self, api: ServingApi, version: str, case: Case, directory: Path) -> None:
        self.api = api
        self.namespace = f"k{version.replace('.', '')}-{CASES.index(case)}"
        self.directory = directory / "manifests"
        self.directory.mkdir()
        for manifest in MANIFESTS.iterdir():
            (self.directory / manifest.name).write_text(self.fill(manifest.read_text()))
        # What only prepares or looks afterwards shares its discovery cache, and asks for no schema: half the run time.
        self.aside = Kubectl(version, api.kubeconfig(), api.directory / f"home-{version}", self.namespace)
        self.aside.home.mkdir(exist_ok=True)
        fresh = directory / "home"
        fresh.mkdir()
        home = fresh if version in FRESH else self.aside.home
        self.kubectl = Kubectl(version, api.kubeconfig(), home, self.namespace)

    def fill(self, text: str) -> str:
        return text.replace("@NS@", self.namespace).replace("@DIR@", str(self.directory))

    def prepare(self, case: Case) -> None:
        self.api.make_namespace(self.namespace)
        for name in case.files:
            self.must(f"apply --validate=false -f {self.directory / name}")
            if name == "crd.yaml":
                self.must(f"wait --for=condition=Established crd/widgets.{self.namespace}.example.com --timeout=10s")
        for command in case.setup:
            self.must(self.fill(command))
        if case.owned:
            self.must("create -f -", self.child_of_owner())
        if case.event:
            uid = self.must("get configmap settings -o jsonpath={.metadata.uid}")
            event = (
                (self.directory / "event.yaml").read_text().replace("name: settings,", f"name: settings, uid: {uid},")
            )
            self.must("create -f -", event)
        if case.csr:
            self.must("create -f -", signing_request(f"csr-{self.namespace}"))

    def child_of_owner(self) -> str:
        uid = self.must("get configmap owner -o jsonpath={.metadata.uid}")
        owner = f'{{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"{uid}","blockOwnerDeletion":true}}'
        return f'{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"child","ownerReferences":[{owner}]}}}}'

    def must(self, command: str, stdin: str = "") -> str:
        done = self.aside.run(command, stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def plain(self, case: Case) -> None:
        done = self.kubectl.run(self.fill(case.run), self.fill(case.stdin), case.env)
        shown = f"exit {done.returncode}\n--- out\n{done.stdout}\n--- err\n{done.stderr}"
        assert done.returncode == case.exit, shown
        assert re.search(self.fill(case.out), done.stdout, PATTERN_FLAGS), f"wanted out {self.fill(case.out)}\n{shown}"
        assert re.search(self.fill(case.err), done.stderr, PATTERN_FLAGS), f"wanted err {self.fill(case.err)}\n{shown}"
        assert not case.absent or not re.search(case.absent, done.stdout), shown

    def watched(self, case: Case) -> None:
        """Run a command that waits, do what the case says meanwhile, and read what it then printed."""
        out = self.directory / "watched"
        before = self.watches()
        running = self.kubectl.start(self.fill(case.run), out)
        try:
            if "-w" in case.run.split():
                until(lambda: "settings" in out.read_text())
            until(lambda: self.watches() > before)  # only now does it see what is done meanwhile
            for command in case.during:
                self.must(self.fill(command))
            until(lambda: re.search(self.fill(case.out), out.read_text(), PATTERN_FLAGS))
        finally:
            running.kill()
            running.wait()

    def watches(self) -> float:
        """Return how many watches the API has opened so far."""
        asked = self.api.metrics.counter("skerry_kube_requests_total", "", ("verb", "resource", "code"))
        return sum(count for (verb, *_), count in list(asked.values.items()) if verb == "watch")

    def check(self, case: Case) -> None:
        for command, wanted in case.then:
            done = self.aside.run(self.fill(command))
            if wanted == "ERROR":
                assert done.returncode != 0, f"{command}: {done.stdout}"
                continue
            assert done.returncode == 0, f"{command}: {done.stderr}"
            assert re.search(self.fill(wanted), done.stdout, PATTERN_FLAGS), (
                f"{command}: wanted {wanted}\n{done.stdout}"
            )


def signing_request(name: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ann")])
    pem = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = base64.b64encode(pem.public_bytes(serialization.Encoding.PEM)).decode()
    spec: dict[str, Any] = {
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
        "request": request,
    }
    body = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name}}
    return str({**body, "spec": spec}).replace("'", '"')


# The others find a discovery cache of earlier commands, as people's kubectl does: both must work, and this costs less.
FRESH = (VERSIONS[0], "1.31", VERSIONS[-1])
PAIRS = [
    pytest.param(version, case, id=f"{case.name.replace(' ', '_')}-{version}") for case in CASES for version in VERSIONS
]


@pytest.mark.parametrize(("version", "case"), PAIRS)
def test_kubectl_is_at_home(api: ServingApi, tmp_path: Path, version: str, case: Case) -> None:
    run = Run(api, version, case, tmp_path)
    run.prepare(case)
    if case.during:
        run.watched(case)
    else:
        run.plain(case)
    run.check(case)


def test_the_table_is_as_long_as_promised() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= MINIMUM_COMMANDS
