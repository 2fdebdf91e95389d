"""The suite of every runtime. A runtime's class gives the fixtures ``world`` (and ``registry`` where it pulls); what holds
only for some runtimes is a class of its own, which the others do not name: NetworkPromises, PullPromises, DaemonPromises.
"""

from tests.conformance.runtime.calls import CallPromises
from tests.conformance.runtime.lives import LifePromises, LogPromises
from tests.conformance.runtime.settings import NamespacePromises, SettingPromises
from tests.conformance.runtime.stored import ImagePromises


class RuntimeConformance(LifePromises, LogPromises, CallPromises, SettingPromises, NamespacePromises, ImagePromises):
    """What edgecore/pods/runtime.py promises of each runtime."""
