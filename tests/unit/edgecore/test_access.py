import subprocess
from pathlib import Path

import pytest

from edgecore import access
from edgecore.settings import DeviceBroker
from proto.kit.errors import UsageError
from proto.mqtt.identity import Identity, PeerCertificate, Refusal, Verb
from proto.mqtt.packets import Connect

KILN = "$hw/events/device/kiln"


def connect() -> Connect:
    return Connect(client_id="c1")


def guarded(tmp_path: Path, rules: str | None = None) -> access.Access:
    passwords = tmp_path / "passwd"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "kiln", "hot"], check=True)
    acl = tmp_path / "acl"
    if rules is not None:
        acl.write_text(rules)
    return access.load(DeviceBroker(password_file=str(passwords), acl_file=str(acl) if rules is not None else ""))


def test_on_loopback_everybody_may_do_everything() -> None:
    free = access.load(DeviceBroker())

    assert free.authenticate(connect(), None, "", b"").name == "anonymous"
    assert free.allows(Identity("anonymous"), "publish", "a/b")


def test_a_password_of_mosquitto_is_checked(tmp_path: Path) -> None:
    found = guarded(tmp_path)

    assert found.authenticate(connect(), None, "kiln", b"hot").name == "kiln"
    for user, password in [("kiln", b"cold"), ("oven", b"hot"), ("", b"")]:
        with pytest.raises(Refusal):
            found.authenticate(connect(), None, user, password)


def test_a_client_certificate_names_its_device() -> None:
    found = access.Access(free=False, certificates=True)
    peer = PeerCertificate("kiln", (), "01")

    assert found.authenticate(connect(), peer, "", b"").name == "kiln"
    with pytest.raises(Refusal):
        found.authenticate(connect(), None, "", b"")


@pytest.mark.parametrize(
    ("verb", "topic", "allowed"),
    [
        ("publish", f"{KILN}/twin/update", True),
        ("publish", "$hw/events/device/default/kiln/twin/update", True),
        ("publish", "$hw/events/device/oven/twin/update", False),
        ("publish", "$hw/events/device/default/oven/twin/update", False),
        ("subscribe", f"{KILN}/#", True),
        ("subscribe", f"{KILN}/twin/+", True),
        ("subscribe", "$share/g/" + KILN + "/twin/+", True),
        ("subscribe", "#", False),
        ("subscribe", "$hw/#", False),
        ("subscribe", "$hw/events/device/+/twin/update/delta", False),
        ("receive", f"{KILN}/twin/update/delta", True),
        ("receive", "$hw/events/device/oven/twin/update/delta", False),
    ],
)
def test_a_user_without_acl_is_a_device_with_its_own_topics(
    tmp_path: Path, verb: Verb, topic: str, allowed: bool
) -> None:
    assert guarded(tmp_path).allows(Identity("kiln"), verb, topic) is allowed


@pytest.mark.parametrize("user", ["#", "+", "a/b/c", "", "a/", "+/kiln"])
def test_a_user_whose_name_is_no_device_has_no_topics(user: str) -> None:
    assert access.own_topics(user) == []


def test_an_acl_file_of_mosquitto_is_obeyed(tmp_path: Path) -> None:
    rules = (
        "topic read news/#\nuser kiln\ntopic write plant/+/kiln\ntopic deny plant/secret/#\npattern readwrite u/%u/#\n"
    )
    found = guarded(tmp_path, rules)
    kiln, oven = Identity("kiln"), Identity("oven")

    assert found.allows(kiln, "publish", "plant/a/kiln")
    assert not found.allows(kiln, "publish", "plant/secret/kiln")
    assert not found.allows(oven, "publish", "plant/a/kiln")
    assert found.allows(oven, "subscribe", "news/+/today")
    assert not found.allows(oven, "publish", "news/today")
    assert found.allows(oven, "subscribe", "u/oven/#")
    assert not found.allows(oven, "subscribe", "u/kiln/#")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("allow a", "line 1: expected user, topic or pattern"),
        ("\ntopic read a/#/b", "line 2: 'a/#/b' is no topic filter"),
    ],
)
def test_a_wrong_acl_file_names_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        guarded(tmp_path, text)


def test_a_password_file_without_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("kiln:hot\n")

    with pytest.raises(UsageError, match="mosquitto_passwd"):
        access.load(DeviceBroker(password_file=str(tmp_path / "passwd")))
