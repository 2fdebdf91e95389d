"""The same pods without a platform: RunPodSandbox, CreateContainer and StartContainer from a plain gRPC client, and no more.

The configurations are those of a pod that edgecore made, as containerd tells them: mounts, environment, CNI and cgroups alike.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.json_format import ParseDict

from edgecore.pods.marks import MANAGED_BY, POD_NAME, POD_UID
from proto.gen import cri_pb2 as pb

SERVICE = "/runtime.v1.RuntimeService"


class BareCri:
    """Makes copies of the pod ``uid``, which must be running; copies carry another node's mark, so that nobody minds them."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._numbers = count(1)
        self._sandbox, self._container = pb.PodSandboxConfig(), pb.ContainerConfig()
        self.made: list[str] = []

    def close(self) -> None:
        self._channel.close()

    def learn(self, uid: str) -> None:
        """Take the configurations of this pod."""
        listed, held = self._of(POD_UID, uid)
        sandbox = self.call(
            "PodSandboxStatus",
            pb.PodSandboxStatusRequest(pod_sandbox_id=listed[0].id, verbose=True),
            pb.PodSandboxStatusResponse,
        )
        container = self.call(
            "ContainerStatus",
            pb.ContainerStatusRequest(container_id=held[0].id, verbose=True),
            pb.ContainerStatusResponse,
        )
        ParseDict(json.loads(sandbox.info["info"])["config"], self._sandbox, ignore_unknown_fields=True)
        ParseDict(json.loads(container.info["info"])["config"], self._container, ignore_unknown_fields=True)
        for config in (self._sandbox, self._container):
            config.labels[MANAGED_BY] = "nobody"

    def stamps(self, uid: str) -> dict[str, float]:
        """When the runtime says that it made the pod ``uid``: seconds of the wall clock."""
        listed, held = self._of(POD_UID, uid)
        asked = pb.ContainerStatusRequest(container_id=held[0].id)
        status = self.call("ContainerStatus", asked, pb.ContainerStatusResponse).status
        return {
            "sandbox": listed[0].created_at / 1e9,
            "created": status.created_at / 1e9,
            "started": status.started_at / 1e9,
        }

    def sandboxes(self, node: str) -> int:
        """How many sandboxes of pods of ``node`` there are."""
        return len(self._of(MANAGED_BY, node)[0])

    def _of(self, label: str, value: str) -> tuple[list[Any], list[Any]]:
        """The sandboxes and containers with one label."""
        listed = self.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        held = self.call("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        return (
            [i for i in listed.items if i.labels.get(label) == value],
            [i for i in held.containers if i.labels.get(label) == value],
        )

    def start(self) -> dict[str, float]:
        """Run one more copy; return how long each call took."""
        number = next(self._numbers)
        sandbox, container = pb.PodSandboxConfig(), pb.ContainerConfig()
        sandbox.CopyFrom(self._sandbox)
        container.CopyFrom(self._container)
        name, uid = f"bare-{number}", f"bare-uid-{number}"
        sandbox.metadata.name, sandbox.metadata.uid = name, uid
        for config in (sandbox, container):
            config.labels[POD_NAME], config.labels[POD_UID] = name, uid
        sandbox.log_directory = f"{sandbox.log_directory}-{number}"
        Path(sandbox.log_directory, container.log_path).parent.mkdir(parents=True)
        began_s = time.monotonic()
        run = pb.RunPodSandboxRequest(config=sandbox)
        sandbox_id = self.call("RunPodSandbox", run, pb.RunPodSandboxResponse).pod_sandbox_id
        self.made.append(sandbox_id)
        ran_s = time.monotonic()
        create = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=sandbox)
        container_id = self.call("CreateContainer", create, pb.CreateContainerResponse).container_id
        made_s = time.monotonic()
        self.call("StartContainer", pb.StartContainerRequest(container_id=container_id), pb.StartContainerResponse)
        done_s = time.monotonic()
        return {"run": ran_s - began_s, "create": made_s - ran_s, "start": done_s - made_s, "all": done_s - began_s}

    def start_many(self, pods: int, parallel: int) -> float:
        """Run ``pods`` copies, ``parallel`` at once; return the seconds until the last one runs."""
        began_s = time.monotonic()
        with ThreadPoolExecutor(parallel) as pool:
            for one in [pool.submit(self.start) for _ in range(pods)]:
                one.result()
        return time.monotonic() - began_s

    def remove_all(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._remove, self.made))
        self.made.clear()

    def _remove(self, sandbox_id: str) -> None:
        self.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), pb.StopPodSandboxResponse)
        self.call(
            "RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id), pb.RemovePodSandboxResponse
        )

    def call(self, name: str, request: Any, answer: Any) -> Any:
        method = self._channel.unary_unary(
            f"{SERVICE}/{name}", request_serializer=_bytes, response_deserializer=answer.FromString
        )
        return method(request, timeout=60.0)


def _bytes(message: Any) -> bytes:
    out: bytes = message.SerializeToString()
    return out
