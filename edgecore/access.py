"""Who may speak to the device broker, and about what: loopback is free, any other address proves itself.

Password files are Mosquitto's (``mosquitto_passwd`` writes them: ``$6$`` and ``$7$``), ACL files too (``user``, ``topic``,
``pattern`` with ``%u`` and ``%c``). Without an ACL file a user is one device, ``NAME`` or ``NAMESPACE/NAME``, and has its topics.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from devicetwin.model import DEFAULT_NAMESPACE, DeviceId
from devicetwin.topics import device_topic
from edgecore.settings import DeviceBroker
from proto.kit.errors import UsageError
from proto.mqtt import reasons
from proto.mqtt.identity import Identity, PeerCertificate, Refusal, Verb
from proto.mqtt.packets import Connect
from proto.mqtt.topics import check_filter, matches, split_share

MAX_FILE_BYTES = 4 << 20
MAX_ITERATIONS = 100_000  # a password check runs on the loop: about 50 ms at this bound
READ, WRITE, BOTH, DENY = "read", "write", "readwrite", "deny"
DEEPEST = "/".join(["\x01"] * 40)  # stands for ``#``: deeper than any topic the broker accepts


@dataclass(frozen=True, slots=True)
class Rule:
    """``user`` "" is everybody; ``topic`` may hold ``%u`` and ``%c``."""

    user: str
    access: str
    topic: str

    def filter_for(self, identity: Identity) -> str:
        return self.topic.replace("%u", identity.name).replace("%c", identity.client_id)


@dataclass(frozen=True, slots=True)
class Access:
    """The embedded device broker's ``authenticate`` and ``allows``."""

    free: bool  # loopback without files: everybody may do everything
    certificates: bool = False
    passwords: dict[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] | None = None  # None: a user is a device and has its own topics

    def authenticate(self, connect: Connect, peer: PeerCertificate | None, username: str, password: bytes) -> Identity:
        """Say who this is. Raises Refusal."""
        if self.certificates and peer is not None and peer.common_name:
            return Identity(peer.common_name, connect.client_id)
        if self.free:
            return Identity("anonymous")
        stored = self.passwords.get(username)
        if stored is None or not check_password(stored, password):
            raise Refusal("user name or password is wrong", reasons.BAD_CREDENTIALS)
        return Identity(username, connect.client_id)

    def allows(self, identity: Identity, verb: Verb, topic: str) -> bool:
        """Whether ``identity`` may ``verb`` this topic name or filter."""
        if self.free:
            return True
        wanted = (WRITE, BOTH) if verb == "publish" else (READ, BOTH)
        name = _sample(topic) if verb == "subscribe" else topic
        rules = self._rules_of(identity)
        if any(matches(f, name) for access, f in rules if access == DENY):
            return False
        return any(matches(f, name) for access, f in rules if access in wanted)

    def _rules_of(self, identity: Identity) -> list[tuple[str, str]]:
        if self.rules is None:
            return [(BOTH, topic) for topic in own_topics(identity.name)]
        mine = (rule for rule in self.rules if rule.user in {"", identity.name})
        return [(rule.access, rule.filter_for(identity)) for rule in mine]


def load(settings: DeviceBroker) -> Access:
    """Read the files that the settings name. Raises UsageError with the line."""
    passwords = read_passwords(Path(settings.password_file)) if settings.password_file else {}
    rules = read_rules(Path(settings.acl_file)) if settings.acl_file else None
    free = not settings.password_file and not settings.tls_ca
    return Access(free, bool(settings.tls_ca), passwords, rules)


def own_topics(user: str) -> list[str]:
    """The filters of the device that a user name stands for; none when the name holds a wildcard."""
    namespace, _, name = user.rpartition("/")
    if not name or not check_filter(user) or "+" in user or "#" in user or "/" in namespace:
        return []
    device = DeviceId(namespace or DEFAULT_NAMESPACE, name)
    short = [device_topic(device, "#", one_level=True)] if not namespace else []
    return [device_topic(device, "#"), *short]


def check_password(stored: str, password: bytes) -> bool:
    """Compare with a hash of ``mosquitto_passwd``: ``$6$salt$hash`` or ``$7$iterations$salt$hash``."""
    try:
        kind, *fields = stored.split("$")[1:]
        if kind == "7":
            iterations, salt, wanted = int(fields[0]), base64.b64decode(fields[1]), base64.b64decode(fields[2])
            found = hashlib.pbkdf2_hmac("sha512", password, salt, min(iterations, MAX_ITERATIONS))
        elif kind == "6":
            salt, wanted = base64.b64decode(fields[0]), base64.b64decode(fields[1])
            found = hashlib.sha512(password + salt).digest()
        else:
            return False
    except (ValueError, IndexError, binascii.Error):
        return False
    return hmac.compare_digest(found, wanted)


def read_passwords(path: Path) -> dict[str, str]:
    out: dict[str, str] = {}
    for number, line in _lines(path):
        user, sep, stored = line.partition(":")
        if not sep or not user or not stored.startswith(("$6$", "$7$")):
            raise UsageError(f"{path} line {number}: write it with mosquitto_passwd (user:$7$…)")
        out[user] = stored
    return out


def read_rules(path: Path) -> tuple[Rule, ...]:
    out: list[Rule] = []
    user = ""
    for number, line in _lines(path):
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "user" and rest:
            user = rest
        elif word in {"topic", "pattern"} and rest:
            access, _, topic = rest.partition(" ")
            if access not in {READ, WRITE, BOTH, DENY}:
                access, topic = BOTH, rest
            if not check_filter(topic.strip()):
                raise UsageError(f"{path} line {number}: {topic!r} is no topic filter")
            out.append(Rule("" if word == "pattern" else user, access, topic.strip()))
        else:
            raise UsageError(f"{path} line {number}: expected user, topic or pattern, not {word!r}")
    return tuple(out)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8'}") from error
    numbered = enumerate((line.strip() for line in text.splitlines()), 1)
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _sample(topic_filter: str) -> str:
    """A topic name that only filters at least as wide as ``topic_filter`` match."""
    return split_share(topic_filter)[1].replace("+", "\x01").replace("#", DEEPEST)
