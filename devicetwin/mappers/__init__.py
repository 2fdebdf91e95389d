"""The mappers that ship: one folder per protocol, the same files in each."""

from devicetwin.mapper import MapperFactory
from devicetwin.mappers.host.mapper import HostMapper
from devicetwin.mappers.simulated.mapper import SimulatedMapper

FACTORIES: dict[str, MapperFactory] = {HostMapper.protocol: HostMapper, SimulatedMapper.protocol: SimulatedMapper}
