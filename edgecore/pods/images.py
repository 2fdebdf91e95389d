"""Images for containers: pull policies, credentials, shared and bounded pulls, back-off, and life without a registry.

``Always`` on an edge means: ask the registry; when it does not answer and the image is here, run what is here (IMG-3).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from edgecore.pods import credentials
from edgecore.pods.lookups import Objects
from edgecore.pods.references import Reference, parse
from edgecore.pods.runtime import Auth, Image, NoSuch, RuntimeAway, RuntimeRefused
from edgecore.pods.unready import Unready
from proto.kit.clock import Clock

Json = dict[str, Any]
FIRST_S, LONGEST_S = 10.0, 300.0  # between pulls that fail, as kubelet
LOOK_S = 10.0  # how often an image that cannot be pulled is looked for on this node: somebody may bring it in a file
FORGET_AFTER = 2.0  # of the longest delay: then a failure is history
PATIENCE_S = 3.0  # for an answer about an image that is here, while the network seems down
SILENT_S = 60.0  # how long a registry that did not answer is not asked again about images that are here
ANSWERED = ("not found", "unauthorized", "denied", "forbidden", "manifest unknown")
NETWORK = (
    "dial tcp", "no such host", "timeout", "timed out", "deadline exceeded", "connection re", "unreachable", "no answer", "eof",
    "temporary failure", "server misbehaving", "no route",
)  # fmt: skip
FULL = "no space left"
PARALLEL = 2  # pulls at once: more only share the same uplink


class Say(Protocol):
    """Raises an event about a pod (edgecore.pods.events)."""

    def __call__(self, pod: Json, kind: str, reason: str, message: str, *, container: str = "") -> None: ...


class Store(Protocol):
    """What this room needs of a ContainerRuntime."""

    async def image(self, reference: str) -> Image | None: ...
    async def pull(self, reference: str, auth: Auth | None = None) -> str: ...


@dataclass(slots=True)
class _Failed:
    """Of one pod and image."""

    delay_s: float
    until_s: float
    why: str
    answered: bool  # the registry said no, in contrast to nothing at all
    told: bool = False  # of this delay


class Images:
    """Makes sure that images are here. Errors are Unready with kubelet's reasons; RuntimeAway goes through."""

    def __init__(
        self,
        runtime: Store,
        objects: Objects,
        clock: Clock,
        *,
        say: Say,
        online: Callable[[], bool],
        parallel: int = PARALLEL,
    ) -> None:
        self._runtime, self._objects, self._clock = runtime, objects, clock
        self._say, self._online = say, online
        self._slots = asyncio.Semaphore(parallel)
        self._failed: dict[tuple[str, str], _Failed] = {}
        self._silent: dict[str, float] = {}  # registry -> not asked before (monotonic)
        self._flights: dict[tuple[str, tuple[Auth, ...]], asyncio.Future[str]] = {}

    async def ensure(self, pod: Json, container: Json) -> Image:
        """Return the container's image, pulled if its policy says so. Raises Unready, RuntimeAway."""
        text = str(container.get("image") or "")
        try:
            reference = parse(text)
        except ValueError as error:
            raise Unready(
                "InvalidImageName", f'Failed to apply default image tag "{text}": couldn\'t parse image name: {error}'
            ) from error
        policy = policy_of(container, reference)
        here = await self._here(reference, text)
        if here is not None and (policy != "Always" or self._is_silent(reference)):
            self._say(
                pod,
                "Normal",
                "Pulled",
                f'Container image "{text}" already present on machine',
                container=container["name"],
            )
            return here
        if policy == "Never":
            raise Unready("ErrImageNeverPull", f'Container image "{text}" is not present with pull policy of Never')
        key = (str(pod["metadata"].get("uid", "")), str(reference))
        failed = self._in_back_off(key)
        if failed is not None:
            if here is not None and not failed.answered:
                return self._unchecked(pod, container, reference, here)
            raise self._early(failed, pod, container, text)
        return await self._pull(pod, container, reference, here, key)

    def forget(self, uid: str) -> None:
        """Drop the back-offs of a pod that is gone."""
        for key in [key for key in self._failed if key[0] == uid]:
            del self._failed[key]

    async def _here(self, reference: Reference, text: str) -> Image | None:
        for name in dict.fromkeys((str(reference), text)):
            try:
                found = await self._runtime.image(name)
            except NoSuch:
                found = None
            except RuntimeRefused as error:
                raise Unready("ImageInspectError", f'Failed to inspect image "{text}": {error}') from error
            if found is not None:
                return found
        return None

    async def _pull(
        self, pod: Json, container: Json, reference: Reference, here: Image | None, key: tuple[str, str]
    ) -> Image:
        text, name = container["image"], container["name"]
        auths, problems = credentials.of_pod(pod, reference, self._objects)
        if problems:
            self._say(pod, "Warning", "FailedToRetrieveImagePullSecret", "; ".join(problems), container=name)
        self._say(pod, "Normal", "Pulling", f'Pulling image "{text}"', container=name)
        began_s = self._clock.now_s()
        try:
            async with asyncio.timeout(PATIENCE_S if here is not None and not self._online() else None):
                image_id = await self._shared(reference, tuple(auths))
        except (RuntimeRefused, TimeoutError) as error:
            why = str(error) or "no answer"
            if here is not None and not answered(why):
                return self._unchecked(pod, container, reference, here)
            raise self._fail(key, pod, container, reference, why) from error
        self._failed.pop(key, None)
        self._silent.pop(reference.registry, None)
        found = await self._here(reference, text) or Image(image_id)
        took_s = self._clock.now_s() - began_s
        said = f'Successfully pulled image "{text}" in {took_s:.3g}s. Image size: {found.size_bytes} bytes.'
        self._say(pod, "Normal", "Pulled", said, container=name)
        return found

    def _unchecked(self, pod: Json, container: Json, reference: Reference, here: Image) -> Image:
        self._silent[reference.registry] = self._clock.now_s() + SILENT_S
        said = (
            f'Registry {reference.registry} does not answer: running image "{container["image"]}" as it is on this node'
        )
        self._say(pod, "Warning", "ImageNotChecked", said, container=container["name"])
        return here

    async def _shared(self, reference: Reference, auths: tuple[Auth, ...]) -> str:
        """Pull once for all who ask for the same with the same credentials meanwhile."""
        key = (str(reference), auths)
        while True:
            flight = self._flights.get(key)
            if flight is None:
                break
            try:
                return await asyncio.shield(flight)
            except asyncio.CancelledError:
                if not flight.cancelled():
                    raise  # it is us who were cancelled, not the one who pulled for us
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            async with self._slots:
                result = await self._try(str(reference), auths)
            flight.set_result(result)
        except (RuntimeRefused, RuntimeAway) as error:
            flight.set_exception(error)
            flight.exception()  # seen, also when nobody else waits
            raise
        finally:
            del self._flights[key]
            if not flight.done():
                flight.cancel()
        return result

    async def _try(self, reference: str, auths: tuple[Auth, ...]) -> str:
        refused: RuntimeRefused | None = None
        for auth in auths or (None,):
            try:
                return await self._runtime.pull(reference, auth)
            except RuntimeRefused as error:
                refused = error
        assert refused is not None
        raise refused

    def _is_silent(self, reference: Reference) -> bool:
        return self._clock.now_s() < self._silent.get(reference.registry, 0.0)

    def _in_back_off(self, key: tuple[str, str]) -> _Failed | None:
        failed = self._failed.get(key)
        if failed is None or failed.until_s > self._clock.now_s():
            return failed
        if failed.until_s + LONGEST_S * FORGET_AFTER < self._clock.now_s():
            del self._failed[key]
        return None

    def _early(self, failed: _Failed, pod: Json, container: Json, text: str) -> Unready:
        """Return why the image is not pulled again yet; told once in each delay, looked for more often."""
        if not failed.told:
            failed.told = True
            self._say(pod, "Normal", "BackOff", f'Back-off pulling image "{text}"', container=container["name"])
        left_s = min(failed.until_s - self._clock.now_s(), LOOK_S)
        return Unready("ImagePullBackOff", f'Back-off pulling image "{text}": {failed.why}', retry_after_s=left_s)

    def _fail(self, key: tuple[str, str], pod: Json, container: Json, reference: Reference, why: str) -> Unready:
        failed, now_s = self._failed.get(key), self._clock.now_s()
        delay_s = FIRST_S if failed is None else min(failed.delay_s * 2, LONGEST_S)
        text = container["image"]
        has_answered = answered(why)
        why = explained(why, text, reference.registry)
        self._failed[key] = _Failed(delay_s, now_s + delay_s, f"ErrImagePull: {why}", has_answered)
        self._say(pod, "Warning", "Failed", f'Failed to pull image "{text}": {why}', container=container["name"])
        return Unready("ErrImagePull", why, retry_after_s=min(delay_s, LOOK_S))


def policy_of(container: Json, reference: Reference) -> str:
    """Return the pull policy; without one ``latest`` is always asked for."""
    policy = container.get("imagePullPolicy")
    if policy in {"Always", "Never", "IfNotPresent"}:
        return str(policy)
    return "Always" if reference.tag == "latest" and not reference.digest else "IfNotPresent"


def answered(why: str) -> bool:
    """Whether a registry said this, rather than nobody."""
    low = why.lower()
    return any(word in low for word in ANSWERED) and "no such host" not in low


def explained(why: str, image: str, registry: str) -> str:
    """Return the sentence for people, with what to do where something can be done on this node."""
    low = why.lower()
    if FULL in low:
        return f'image "{image}" does not fit on the disk ({why}): free some, for example with `edgecore images prune --all`'
    if any(word in low for word in NETWORK) and not answered(why):
        return (
            f'image "{image}" is not on this node and registry {registry} does not answer ({why}):'
            " bring it as a file with `edgecore images import FILE`"
        )
    return why
