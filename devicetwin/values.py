"""Values of twins: always strings on the wire, checked against a type, compared by meaning.

Two vocabularies meet here: a DeviceModel's types (``INT`` ...) and the type names that KubeEdge's MQTT payloads carry
(``int`` ...). ``FROM_MODEL`` translates the first to the second, which is what a twin keeps.
"""

import math
import re

from proto.kit.errors import Terminal

INT, FLOAT, STRING, BOOLEAN, DELETED = "int", "float", "string", "boolean", "deleted"

FROM_MODEL = {
    "INT": INT,
    "FLOAT": FLOAT,
    "DOUBLE": FLOAT,
    "STRING": STRING,
    "BOOLEAN": BOOLEAN,
    "BYTES": STRING,
    "STREAM": STRING,
}
# What an MQTT client may name; "" means "the twin's own".
WIRE_TYPES = frozenset({"", INT, "integer", FLOAT, STRING, BOOLEAN, DELETED})
NUMBERS = frozenset({INT, "integer", FLOAT})

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
MAX_VALUE_CHARS = 512
_KEY = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,128}")
_VALUE = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{0,512}")
_INT = re.compile(r"[+-]?[0-9]{1,20}")
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

REASON_KEY = (
    "The key of twin must only include upper or lowercase letters, number, english, and special letter"
    " - _ . , : / @ # and the length of key should be less than 128 bytes"
)
REASON_VALUE = (
    "The value of twin must only include upper or lowercase letters, number, english, and special letter"
    " - _ . , : / @ # and the length of value should be less than 512 bytes"
)
REASON_INT = "the value is not int or integer"
REASON_FLOAT = "the value is not float"
REASON_BOOLEAN = "the bool value must be true or false"
REASON_TYPE = "the value type is not allowed"


class BadValue(Terminal):
    """A value that its type, range or character set does not allow; the text is KubeEdge's where it has one."""

    code = "BadValue"


def check_key(key: str) -> None:
    """Raise BadValue unless ``key`` may name a twin's property (TWIN-12)."""
    if _KEY.fullmatch(key) is None:
        raise BadValue(REASON_KEY)


def check_charset(value: str) -> None:
    """Raise BadValue unless ``value`` keeps to the characters that a client may report (TWIN-12)."""
    if _VALUE.fullmatch(value) is None:
        raise BadValue(REASON_VALUE)


def check_type(type_name: str, value: str) -> None:
    """Raise BadValue unless ``value`` reads as ``type_name`` (TWIN-12)."""
    if type_name in ("", STRING, DELETED):
        return
    if type_name in (INT, "integer"):
        if _INT.fullmatch(value) is None or not INT_MIN <= int(value) <= INT_MAX:
            raise BadValue(REASON_INT)
    elif type_name == FLOAT:
        if _FLOAT.fullmatch(value) is None or not math.isfinite(float(value)):
            raise BadValue(REASON_FLOAT)
    elif type_name == BOOLEAN:
        if value not in ("true", "false"):
            raise BadValue(REASON_BOOLEAN)
    else:
        raise BadValue(REASON_TYPE)


def check_range(name: str, type_name: str, value: str, low: float | None, high: float | None) -> None:
    """Raise BadValue when a number is outside the model's bounds (TWIN-13)."""
    if (low is None and high is None) or type_name not in NUMBERS:
        return
    number = float(value)
    if low is not None and number < low:
        raise BadValue(f"the value {value} of {name} is below its minimum {plain(low)}")
    if high is not None and number > high:
        raise BadValue(f"the value {value} of {name} is above its maximum {plain(high)}")


def same(type_name: str, left: str, right: str) -> bool:
    """Whether two values mean the same: numbers by value, everything else by text."""
    if left == right:
        return True
    if type_name not in NUMBERS:
        return False
    try:
        return float(left) == float(right)
    except ValueError:
        return False


def plain(number: float) -> str:
    """Write a number as a twin value: no ``+``, no trailing zeros, whole numbers without a point."""
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    return repr(float(number)).replace("e+", "e")
