"""Addresses of Services: a free cluster IP, and node ports, given in the Service's own transaction. Hooks."""

import ipaddress
from collections.abc import Iterator
from typing import Any

from kubeapi.admission import Attempt
from kubeapi.errors import INVALID, Cause, internal, invalid
from kubeapi.kinds import SERVICE
from kubeapi.store import Store

Json = dict[str, Any]
DEFAULT_RANGE = "10.96.0.0/16"
NODE_PORTS = range(30000, 32768)
STATIC_SHARE = 16  # the first 1/16 of the range, at most 256, is left to those who ask for an address by name


def api_address(cidr: str) -> str:
    """Return the address of the ``kubernetes`` Service: the first of the range."""
    return str(ipaddress.ip_network(cidr)[1])


class ServiceAddresses:
    """Gives Services their addresses. ``admit`` is a Hook; raises 422 for an address that is taken or outside, 500 when full."""

    def __init__(self, store: Store, cidr: str = DEFAULT_RANGE) -> None:
        self._store = store
        self.network = ipaddress.ip_network(cidr)
        self._last = 0  # offset of the newest address given: the next search begins behind it

    def admit(self, attempt: Attempt) -> Json | None:
        if attempt.res != SERVICE or attempt.subresource or attempt.obj is None:
            return None
        spec = dict(attempt.obj.get("spec") or {})
        if spec.get("type") == "ExternalName":
            for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
                spec.pop(key, None)
            return {**attempt.obj, "spec": spec}
        others = list(self._others(attempt))
        if not spec.get("clusterIP") and spec.get("clusterIPs"):
            spec["clusterIP"] = spec["clusterIPs"][0]
        if not spec.get("clusterIP"):
            spec["clusterIP"] = self._free({o.get("clusterIP") for o in others})
        elif spec["clusterIP"] != "None":
            self._check(attempt, spec["clusterIP"], others)
        spec["clusterIPs"] = [spec["clusterIP"]]
        self._node_ports(attempt, spec, others)
        return {**attempt.obj, "spec": spec}

    def _others(self, attempt: Attempt) -> Iterator[Json]:
        for item in self._store.peek_all(SERVICE):
            if (item.namespace, item.name) != (attempt.namespace, attempt.name):
                yield item.object.get("spec") or {}

    def _check(self, attempt: Attempt, address: str, others: list[Json]) -> None:
        held = ((attempt.old or {}).get("spec") or {}).get("clusterIP")
        if address == held:
            return
        why = ""
        try:
            if ipaddress.ip_address(address) not in self.network:
                why = f"the provided network does not match the current range: The range of valid IPs is {self.network}"
        except ValueError:
            why = "must be empty, 'None', or a valid IP address"
        if not why and any(o.get("clusterIP") == address for o in others):
            why = "provided IP is already allocated"
        if why:
            text = f'Invalid value: ["{address}"]: {why}'
            raise invalid(SERVICE, attempt.name, [Cause(INVALID, "spec.clusterIPs", text)])

    def _free(self, taken: set[Any]) -> str:
        size = self.network.num_addresses - 2
        reserved = min(max(size // STATIC_SHARE, 16), 256) if size > 32 else 1
        begin = max(self._last, reserved)
        for offset in (*range(begin + 1, size + 1), *range(reserved + 1, begin + 1), *range(2, reserved + 1)):
            address = str(self.network[offset])
            if address not in taken:
                self._last = offset
                return address
        raise internal(f"failed to allocate IP: the range {self.network} is full")

    def _node_ports(self, attempt: Attempt, spec: Json, others: list[Json]) -> None:
        if spec.get("type") not in ("NodePort", "LoadBalancer"):
            spec["ports"] = [{k: v for k, v in p.items() if k != "nodePort"} for p in spec.get("ports") or ()]
            return
        taken = {(p.get("protocol"), p["nodePort"]) for o in others for p in o.get("ports") or () if p.get("nodePort")}
        held = ((attempt.old or {}).get("spec") or {}).get("ports") or ()
        before = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in held}
        ports = []
        for i, port in enumerate(spec.get("ports") or ()):
            protocol, number = port.get("protocol"), port.get("nodePort")
            if number and (protocol, number) in taken:
                text = f"Invalid value: {number}: provided port is already allocated"
                raise invalid(SERVICE, attempt.name, [Cause(INVALID, f"spec.ports[{i}].nodePort", text)])
            if number and number not in NODE_PORTS:
                text = f"Invalid value: {number}: provided port is not in the valid range. The range of valid ports is 30000-32767"
                raise invalid(SERVICE, attempt.name, [Cause(INVALID, f"spec.ports[{i}].nodePort", text)])
            number = (
                number
                or before.get((protocol, port.get("port")))
                or next((n for n in NODE_PORTS if (protocol, n) not in taken), None)
            )
            if number is None:
                raise internal("failed to allocate a nodePort: range is full")
            taken.add((protocol, number))
            ports.append({**port, "nodePort": number})
        spec["ports"] = ports
        if spec.get("externalTrafficPolicy") is None:
            spec["externalTrafficPolicy"] = "Cluster"
