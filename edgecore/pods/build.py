"""From a Pod and the objects that it names to what the runtime takes: sandbox, containers, volumes, images.

The only place that knows how they fit together; the rules are in the modules beside it. Reads the store, writes no object.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgecore.data_dir import DataDir
from edgecore.pods import cgroups, containers, dns, environment, images, marks, poddirs, resources, security, usage
from edgecore.pods.facts import NodeFacts
from edgecore.pods.images import Images, Say
from edgecore.pods.localpath import LocalPaths
from edgecore.pods.lookups import Objects
from edgecore.pods.poddirs import PodDirs
from edgecore.pods.runtime import ContainerConfig, Image, Mount, PortMapping, Resources, SandboxConfig
from edgecore.pods.settings import PodsSettings
from edgecore.pods.tokens import Tokens
from edgecore.pods.unready import Unready, bad_config, failed_mount
from edgecore.pods.volumes import Volumes
from proto.kit.clock import Clock
from proto.kit.errors import Retryable

__all__ = ["Builder", "NodeFacts", "Unready"]

Json = dict[str, Any]
LOCAL_CA = "local-ca.crt"
SECCOMP = "seccomp"


def silent(pod: Json, kind: str, reason: str, message: str, *, container: str = "") -> None:
    """Say nothing."""


class Builder:
    """One per node. ``api``: where pods find the node-local API; None: it is off, and the Service of the API counts.

    ``child``: the runtime's containers are started by this process and see its mounts; ``mounting`` None: find out whether
    mounts serve at all.
    """

    def __init__(  # noqa: PLR0913  a composition root
        self,
        directory: DataDir,
        objects: Objects,
        tokens: Tokens,
        settings: PodsSettings,
        facts: Callable[[], NodeFacts],
        runtime: images.Store,
        *,
        clock: Clock,
        api: tuple[str, int] | None,
        child: bool = False,
        mounting: bool | None = None,
        say: Say = silent,
        online: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings, self._facts, self._objects = settings, facts, objects
        self._api, self._say = api, say
        self._seccomp = directory.path / SECCOMP
        memory = poddirs.memory_home(directory.path)
        if mounting is None:
            mounting = poddirs.may_mount(directory.path, child=child)
        self.dirs = PodDirs(directory.path, memory=memory, mounting=mounting)
        self.local = LocalPaths(directory.path, objects)
        self.volumes = Volumes(
            self.dirs, objects, tokens, facts, local=self.local, root_ca=directory.pki / LOCAL_CA, clock=clock
        )
        self.images = Images(runtime, objects, clock, say=say, online=online)

    def sandbox(self, pod: Json, attempt: int) -> SandboxConfig:
        """Return the pod as the runtime takes it. Raises Unready for what no sandbox can be."""
        metadata, spec = pod["metadata"], pod.get("spec") or {}
        host_network = bool(spec.get("hostNetwork"))
        domain = self._settings.cluster_domain
        namespace, uid = metadata.get("namespace", ""), metadata["uid"]
        return SandboxConfig(
            namespace=namespace,
            name=metadata["name"],
            uid=uid,
            attempt=attempt,
            hostname="" if host_network else dns.shown_hostname(pod, domain),
            log_directory=str(self.dirs.log_dir(namespace, metadata["name"], uid)),
            cgroup_parent=resources.cgroup_parent(pod),
            dns=dns.of_pod(pod, dns.of_host(), self._settings.dns_servers, domain),
            ports=() if host_network else host_ports(spec),
            labels=marks.pod_labels(pod, self._facts().name),
            annotations=dict(metadata.get("annotations") or {}),
            host_network=host_network,
            host_pid=bool(spec.get("hostPID")),
            host_ipc=bool(spec.get("hostIPC")),
            share_pid=bool(spec.get("shareProcessNamespace")),
            sysctls=security.sysctls(spec),
            security=security.of_sandbox(pod, self._seccomp),
            runtime_handler=self._handler(spec.get("runtimeClassName")),
        )

    async def prepare(self, pod: Json) -> None:
        """Make the pod's directories and volumes ready; may be called again at any time. Raises Unready."""
        metadata = pod["metadata"]
        try:
            for folder in (
                self.dirs.pod(metadata["uid"]),
                self.dirs.log_dir(metadata.get("namespace", ""), metadata["name"], metadata["uid"]),
            ):
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except ValueError as error:
            raise failed_mount("", str(error)) from error
        except OSError as error:
            raise failed_mount("", f"{error.filename}: {error.strerror}") from error
        await self.volumes.prepare(pod)

    async def ensure_image(self, pod: Json, container: Json) -> Image:
        """Return the container's image, pulled where its policy says so. Raises Unready, RuntimeAway."""
        return await self.images.ensure(pod, container)

    def container(
        self, pod: Json, container: Json, *, attempt: int, image: Image, ips: tuple[str, ...], sandbox: SandboxConfig
    ) -> ContainerConfig:
        """Return the container as the runtime takes it; writes its /etc/hosts and termination log. Raises Unready."""
        facts = self._facts()
        cgroups.weigh(pod, self._every_pod())
        variables = self._variables(pod, container, facts, ips)
        command, args = environment.command(container, variables)
        mounts = containers.volume_mounts(pod, container, variables, self.volumes)
        taken = {mount.container_path for mount in mounts}
        try:
            own = [self._hosts(pod, ips), self._termination(pod, container, attempt)]
        except OSError as error:
            raise bad_config(f"{error.filename}: {error.strerror}") from error
        mounts += [mount for mount in own if mount is not None and mount.container_path not in taken]
        name = container["name"]
        return ContainerConfig(
            name=name,
            image=image.id,
            attempt=attempt,
            command=command,
            args=args,
            working_dir=container.get("workingDir") or "",
            env=tuple({"HOSTNAME": sandbox.hostname or facts.name, **variables}.items()),
            mounts=tuple(mounts),
            labels=marks.container_labels(pod, container, facts.name),
            annotations=marks.container_annotations(pod, container, attempt, own[1].host_path if own[1] else ""),
            log_path=f"{name}/{attempt}.log",
            stdin=bool(container.get("stdin")),
            stdin_once=bool(container.get("stdinOnce")),
            tty=bool(container.get("tty")),
            resources=resources.of_container(pod, container, facts.memory_bytes),
            security=security.of_container(pod, container, image, self._seccomp),
        )

    def resources(self, pod: Json, container: Json) -> Resources:
        """Return the container's limits, for a change of them while it runs. Raises Unready."""
        cgroups.weigh(pod, self._every_pod())
        return resources.of_container(pod, container, self._facts().memory_bytes)

    async def refresh(self, pod: Json) -> None:
        """Bring configMaps, secrets, tokens and the downward API of a running pod up to date. Raises Unready."""
        await self.volumes.refresh(pod)

    async def over_limit(self, pod: Json) -> str:
        """Return why the pod must be evicted: an emptyDir larger than its sizeLimit; "" for nothing."""
        return await self.volumes.over_limit(pod)

    def forgive(self, uid: str) -> None:
        """Pull again without back-off: a person asked."""
        self.images.forget(uid)

    async def written(self, pod: Json) -> int:
        """Return the bytes that the pod has written on this node's disk beside its containers' own layers: emptyDirs and logs."""
        metadata = pod["metadata"]
        logs = self.dirs.log_dir(metadata.get("namespace", ""), metadata["name"], metadata["uid"])
        disk = [
            v["name"] for v in pod["spec"].get("volumes") or () if (v.get("emptyDir") or {}).get("medium") != "Memory"
        ]
        taken = await self.volumes.usage(pod)
        return sum(taken.get(name, 0) for name in disk) + await asyncio.to_thread(usage.of, logs)

    async def release(self, uid: str) -> None:
        """Delete what the volumes of an ended pod hold here. Raises Retryable: not yet."""
        if not poddirs.UID.fullmatch(uid):
            return
        try:
            await asyncio.to_thread(self.dirs.delete_volumes, uid)
        except OSError as error:
            raise Retryable(f"{error.filename}: {error.strerror}") from error

    async def forget(self, uid: str) -> None:
        """Unmount and delete everything of a pod: cgroups, volumes, logs, back-offs. Raises Retryable: not yet."""
        self.images.forget(uid)
        if not poddirs.UID.fullmatch(uid):
            return  # never had a directory
        try:
            await asyncio.to_thread(self._delete, uid)
        except OSError as error:
            raise Retryable(f"{error.filename}: {error.strerror}") from error

    def _delete(self, uid: str) -> None:
        cgroups.remove(uid)
        self.dirs.delete(uid)  # last: while it is there, orphans() names the pod

    def orphans(self) -> set[str]:
        """Return the uids of pods that have left something on this node."""
        return self.dirs.uids()

    def _every_pod(self) -> Iterator[Json]:
        yield from self._objects.list("pods", None)

    def _variables(self, pod: Json, container: Json, facts: NodeFacts, ips: tuple[str, ...]) -> dict[str, str]:
        services = environment.services_of(pod, self._objects, self._api)
        found, refused = environment.environment(pod, container, self._objects, facts, ips=ips, services=services)
        if refused:
            said = f"Keys [{', '.join(refused)}] were skipped: they cannot be names of environment variables"
            self._say(pod, "Warning", "InvalidEnvironmentVariableNames", said, container=container["name"])
        return found

    def _hosts(self, pod: Json, ips: tuple[str, ...]) -> Mount | None:
        if not ips:
            return None
        host_file = dns.read_hosts() if (pod.get("spec") or {}).get("hostNetwork") else ""
        content = dns.hosts(pod, ips, self._settings.cluster_domain, host_file)
        return containers.hosts_mount(self.dirs.pod(pod["metadata"]["uid"]) / "etc-hosts", content)

    def _termination(self, pod: Json, container: Json, attempt: int) -> Mount | None:
        uid, name = pod["metadata"]["uid"], container["name"]
        logs = self.dirs.log_dir(pod["metadata"].get("namespace", ""), pod["metadata"]["name"], uid)
        (logs / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        return containers.termination_mount(container, self.dirs.container(uid, name), attempt)

    def _handler(self, name: Any) -> str:
        if not name:
            return ""
        found = self._objects.get("node.k8s.io/runtimeclasses", "", str(name))
        if found is None:
            raise Unready("FailedCreatePodSandBox", f'RuntimeClass "{name}" not found', volumes=True)
        return str(found.get("handler") or "")


def host_ports(spec: Mapping[str, Any]) -> tuple[PortMapping, ...]:
    """Return the hostPorts of all containers."""
    return tuple(
        PortMapping(port["containerPort"], port["hostPort"], port.get("protocol") or "TCP", port.get("hostIP") or "")
        for key in ("initContainers", "containers")
        for container in spec.get(key) or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    )
