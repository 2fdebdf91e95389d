"""Reason codes of MQTT 5 (§2.4) and the CONNACK return codes of MQTT 3.1.1 they become."""

from proto.kit.errors import MalformedMessage

SUCCESS = 0x00
DISCONNECT_WITH_WILL = 0x04
NO_MATCHING_SUBSCRIBERS = 0x10
NO_SUBSCRIPTION_EXISTED = 0x11
UNSPECIFIED = 0x80
MALFORMED_PACKET = 0x81
PROTOCOL_ERROR = 0x82
IMPLEMENTATION_SPECIFIC = 0x83
UNSUPPORTED_VERSION = 0x84
CLIENT_ID_NOT_VALID = 0x85
BAD_CREDENTIALS = 0x86
NOT_AUTHORIZED = 0x87
SERVER_UNAVAILABLE = 0x88
SERVER_BUSY = 0x89
BANNED = 0x8A
SHUTTING_DOWN = 0x8B
BAD_AUTHENTICATION_METHOD = 0x8C
KEEP_ALIVE_TIMEOUT = 0x8D
SESSION_TAKEN_OVER = 0x8E
TOPIC_FILTER_INVALID = 0x8F
TOPIC_NAME_INVALID = 0x90
PACKET_ID_NOT_FOUND = 0x92
RECEIVE_MAXIMUM_EXCEEDED = 0x93
TOPIC_ALIAS_INVALID = 0x94
PACKET_TOO_LARGE = 0x95
RATE_TOO_HIGH = 0x96
QUOTA_EXCEEDED = 0x97
ADMINISTRATIVE_ACTION = 0x98
CONNECTION_RATE_EXCEEDED = 0x9F

# MQTT 3.1.1 §3.2.2.3; whatever is not listed closes the connection with "server unavailable"
_V3_RETURN_CODES = {
    SUCCESS: 0,
    UNSUPPORTED_VERSION: 1,
    CLIENT_ID_NOT_VALID: 2,
    BAD_CREDENTIALS: 4,
    NOT_AUTHORIZED: 5,
    BANNED: 5,
}


def v3_return_code(reason: int) -> int:
    """Return the CONNACK return code of MQTT 3.1.1 for a reason code of MQTT 5."""
    return _V3_RETURN_CODES.get(reason, 3)


class Violation(MalformedMessage):
    """Bytes or behaviour that the specification forbids; the connection is closed with ``reason``."""

    code = "MqttViolation"

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def malformed(message: str) -> Violation:
    return Violation(MALFORMED_PACKET, message)


def protocol_error(message: str) -> Violation:
    return Violation(PROTOCOL_ERROR, message)
