"""Who may do what at the broker that edges connect to: identity from the certificate, rights from the link's topics.

A node's client id is its name, and it reaches its own topics only; nothing is decided by a wildcard.
"""

from cloudcore.certs import ADMIN_GROUP, NODE_GROUP, NODE_USER
from cloudcore.revocation import Revocations
from proto import topics
from proto.kit.errors import MalformedMessage
from proto.kit.metrics import Metrics
from proto.mqtt import reasons
from proto.mqtt.identity import Identity, PeerCertificate, Refusal, Verb
from proto.mqtt.packets import Connect
from proto.names import is_node_name

CLOUD_USER = "system:cloudcore"  # common name with which cloudcore itself connects to an external broker
Rights = frozenset[tuple[str, str]]


class BrokerAccess:
    """``authenticate`` and ``acl`` for ``proto.mqtt.broker``."""

    def __init__(self, revocations: Revocations, metrics: Metrics) -> None:
        self._revocations = revocations
        self._rights: dict[str, Rights] = {}
        self._refused = metrics.counter(
            "skerry_broker_identity_refused_total", "Connections to the edges' broker refused, by reason", ("reason",)
        )
        self._denied = metrics.counter(
            "skerry_broker_acl_denied_total", "Publishes and subscriptions outside a node's own topics", ("verb",)
        )

    def authenticate(self, connect: Connect, peer: PeerCertificate | None, username: str, password: bytes) -> Identity:
        """Return whom the certificate names; user name and password mean nothing here. Raises Refusal."""
        del username, password
        if peer is None:
            raise self._refusal("no_certificate", "a client certificate of this cloud is required")
        if self._revocations.is_revoked(peer.common_name, peer.serial):
            raise self._refusal("revoked", f"the certificate of {peer.common_name} was revoked")
        # The name alone is not enough: somebody may have had a certificate signed by request.
        if peer.common_name == CLOUD_USER and peer.organizations == (ADMIN_GROUP,):
            self._rights[CLOUD_USER] = frozenset(topics.cloud_acl())
            return Identity(CLOUD_USER)
        node = peer.common_name.removeprefix(NODE_USER)
        if peer.organizations != (NODE_GROUP,) or node == peer.common_name or not is_node_name(node):
            raise self._refusal("no_node", "this certificate is not a node's")
        if connect.client_id != node:
            raise self._refusal(
                "client_id", f"the client id must be {node}, as in the certificate", reasons.CLIENT_ID_NOT_VALID
            )
        self._rights[node] = frozenset(topics.acl(node))
        return Identity(peer.common_name, node, peer.organizations)

    def acl(self, identity: Identity, verb: Verb, topic: str) -> bool:
        """Whether ``identity`` may publish to a topic, subscribe with a filter, or be sent a message of a topic."""
        if identity.name == CLOUD_USER:
            allowed = verb == "receive" or self._cloud(verb, topic)
        else:
            allowed = self._node(identity.client_id, verb, topic)
        if not allowed:
            self._denied.inc(verb)
        return allowed

    def _node(self, node: str, verb: Verb, topic: str) -> bool:
        rights = self._rights.get(node, ())
        asked = "subscribe" if verb == "receive" else verb
        if (asked, topic) in rights:
            return verb == "subscribe" or "+" not in topic
        if verb == "subscribe" or not topics.is_stream(topic):
            return False
        try:
            address = topics.parse_stream(topic)
        except MalformedMessage:
            return False
        return address.node == node and address.leg == ("down" if verb == "receive" else "up")

    def _cloud(self, verb: Verb, topic: str) -> bool:
        if verb == "subscribe":
            return (verb, topic) in self._rights[CLOUD_USER]
        try:
            if topics.is_stream(topic):
                return topics.parse_stream(topic).leg == "down"
            return topics.parse(topic).leg in ("down", "presence")
        except MalformedMessage:
            return False

    def _refusal(self, reason: str, message: str, code: int = reasons.NOT_AUTHORIZED) -> Refusal:
        self._refused.inc(reason)
        return Refusal(message, code)
