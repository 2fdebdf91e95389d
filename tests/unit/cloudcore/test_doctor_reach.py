"""What the doctor says about an API server that is there but not as it should be."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import yaml

from cloudcore import doctor_reach as reach
from cloudcore.certs import Authority
from cloudcore.doctor import Patient
from cloudcore.settings import Api, Settings
from proto.kit.checkup import Check
from proto.kit.clock import SystemClock
from proto.link.settings import LinkSettings
from tests.kit.cloud import bare_api
from tests.kit.ports import free_port


def patient(path: Path, kubeconfig: Path, **settings: object) -> Patient:
    found = msgspec.convert({"api": {"kubeconfig": str(kubeconfig)}, **settings}, Settings)
    return Patient(path, found, "", running=False, live=None, now=datetime.now(UTC))


def only(checks: list[Check]) -> Check:
    (check,) = checks
    return check


async def test_a_wrong_ca_is_named(tmp_path: Path) -> None:
    other = Authority.open_or_create(tmp_path / "other", SystemClock())
    async with bare_api(tmp_path / "cluster") as kubeconfig:
        content = yaml.safe_load(kubeconfig.read_text())
        content["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(other.ca_pem).decode()
        kubeconfig.write_text(yaml.safe_dump(content))

        check = only(await reach.check_api(patient(tmp_path, kubeconfig)))

    assert check.level == "Error"
    assert "CERTIFICATE_VERIFY_FAILED" in check.message
    assert "check the CA" in check.message


async def test_missing_definitions_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    async with bare_api(tmp_path / "cluster") as kubeconfig:
        check = only(await reach.check_definitions(patient(tmp_path, kubeconfig)))

    assert check.level == "Error"
    assert "devices.devices.kubeedge.io" in check.message
    assert check.next.startswith("cloudcore crds apply")


async def test_a_user_without_rights_is_told_so(tmp_path: Path) -> None:
    async with bare_api(tmp_path / "cluster") as kubeconfig:
        check = only(await reach.check_api(patient(tmp_path, kubeconfig.with_name("plain.kubeconfig"))))
        assert check.level == "OK"  # everybody may ask for the version

        lacking = await reach.check_definitions(patient(tmp_path, kubeconfig.with_name("plain.kubeconfig")))

    assert only(lacking).level == "Error"
    assert "rights" in only(lacking).message


async def test_a_broker_that_is_away_is_named_with_its_address(tmp_path: Path) -> None:
    Authority.open_or_create(tmp_path / "pki", SystemClock()).client_certificate("cloudcore", "system:cloudcore")
    where = f"mqtts://127.0.0.1:{free_port()}"

    check = only(await reach.check_broker(patient(tmp_path, tmp_path / "none", broker={"url": where})))

    assert check.level == "Error"
    assert where in check.message
    assert "openssl s_client" in check.next


def test_a_silent_node_is_not_ready_within_forty_seconds() -> None:
    settings = Settings()

    assert LinkSettings().keep_alive_s * 1.5 + settings.nodes.away_after_s + 2 <= 40
    assert Api().idle_timeout_s > 60  # a server's bookmarks come each minute
