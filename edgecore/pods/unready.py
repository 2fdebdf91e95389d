"""Why a pod or a container cannot be started now: a reason for its waiting state, and a sentence for people."""

from proto.kit.errors import Retryable


class Unready(Retryable):
    """Something that the pod needs is not here yet. ``volumes``: it concerns the pod, not one container of it."""

    code = "Unready"

    def __init__(self, reason: str, message: str, *, volumes: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason  # CamelCase, such as CreateContainerConfigError
        self.message = message
        self.volumes = volumes


def bad_config(message: str) -> Unready:
    """A container that cannot be made from its spec and the objects that it names."""
    return Unready("CreateContainerConfigError", message)


def failed_mount(volume: str, message: str) -> Unready:
    """A volume that cannot be made ready."""
    return Unready("FailedMount", f'MountVolume.SetUp failed for volume "{volume}" : {message}', volumes=True)
