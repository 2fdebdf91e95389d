"""The address by which pods reach the node-local API: put on the loopback interface by rtnetlink, when we may."""

import socket
import struct
from ipaddress import ip_address

RTM_NEWADDR, RTM_DELADDR = 20, 21  # linux/rtnetlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x200, 0x400
NLMSG_ERROR = 2
IFA_ADDRESS, IFA_LOCAL = 1, 2
RT_SCOPE_LINK = 253
EEXIST, EADDRNOTAVAIL = 17, 99
LOOPBACK = "lo"
MAX_ANSWER_BYTES = 4096
DISCARD_PORT = 9


def ensure(address: str) -> bool:
    """Put ``address`` on the loopback interface; whether it was us. Raises OSError (not permitted) , ValueError."""
    code = _ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address)
    if code not in (0, EEXIST):
        raise OSError(code, "the address cannot be put on the loopback interface")
    return code == 0


def remove(address: str) -> None:
    """Take ``address`` off again; nothing happens when it is not there. Raises OSError, ValueError."""
    code = _ask(RTM_DELADDR, 0, address)
    if code not in (0, EADDRNOTAVAIL):
        raise OSError(code, "the address cannot be taken off the loopback interface")


def is_here(address: str) -> bool:
    """Whether this machine has ``address``, so that a listener can have it."""
    parsed = ip_address(address)
    try:
        with socket.socket(socket.AF_INET6 if parsed.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def is_own(address: str) -> bool:
    """Whether ``address`` is this machine's, by the kernel's routes.

    What is sent to an own address is sent from it. Unlike ``is_here`` that does not depend on ``ip_nonlocal_bind``, and
    unlike rtnetlink a unit with few address families may ask it.
    """
    try:
        parsed = ip_address(address)
        with socket.socket(socket.AF_INET6 if parsed.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, DISCARD_PORT))  # sends nothing
            return ip_address(probe.getsockname()[0]) == parsed
    except (OSError, ValueError):
        return False


def _ask(kind: int, flags: int, address: str) -> int:
    """Send one request and return the errno of its answer, 0 for success."""
    parsed = ip_address(address)
    family = socket.AF_INET6 if parsed.version == 6 else socket.AF_INET
    packed = parsed.packed
    body = struct.pack("=BBBBi", family, parsed.max_prefixlen, 0, RT_SCOPE_LINK, socket.if_nametoindex(LOOPBACK))
    for attribute in (IFA_LOCAL, IFA_ADDRESS):
        body += struct.pack("=HH", 4 + len(packed), attribute) + packed
    head = struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(2.0)
        netlink.bind((0, 0))
        netlink.send(head + body)
        answer = netlink.recv(MAX_ANSWER_BYTES)
    _length, kind, _flags, _seq, _pid, code = struct.unpack_from("=IHHIIi", answer)
    return -code if kind == NLMSG_ERROR else 0
