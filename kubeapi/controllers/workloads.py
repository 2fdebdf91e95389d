"""Which controllers run workloads: one row each."""

from typing import Any

from kubeapi.controllers.cronjobs import CronJobs
from kubeapi.controllers.daemonsets import DaemonSets
from kubeapi.controllers.deployments import Deployments
from kubeapi.controllers.disruption import Disruption
from kubeapi.controllers.endpointslices import EndpointSlices
from kubeapi.controllers.index import Indexes
from kubeapi.controllers.jobs import Jobs
from kubeapi.controllers.nodelife import NodeLife
from kubeapi.controllers.podgc import PodGc
from kubeapi.controllers.replicasets import ReplicaSets
from kubeapi.controllers.rootca import RootCa
from kubeapi.controllers.scheduler import Scheduler
from kubeapi.controllers.statefulsets import StatefulSets
from kubeapi.controllers.volumes import Volumes
from kubeapi.kinds import REPLICA_SET, REPLICATION_CONTROLLER
from kubeapi.objects import Objects


def workloads(objects: Objects, root_ca: bytes) -> tuple[Indexes, list[Any]]:
    """Return the indexes, to be started first, and the controllers that ask them."""
    indexes = Indexes(objects.store)
    return indexes, [
        ReplicaSets(objects, indexes, REPLICA_SET),
        ReplicaSets(objects, indexes, REPLICATION_CONTROLLER),
        Deployments(objects, indexes),
        DaemonSets(objects, indexes),
        StatefulSets(objects, indexes),
        Jobs(objects, indexes),
        CronJobs(objects, indexes),
        Volumes(objects, indexes),
        Scheduler(objects, indexes),
        EndpointSlices(objects, indexes),
        Disruption(objects, indexes),
        NodeLife(objects, indexes),
        PodGc(objects, indexes),
        RootCa(objects, root_ca),
    ]
