"""The mounts of a container: its volumes with sub-paths, /etc/hosts, the termination log."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from edgecore.pods import mounts, subpaths
from edgecore.pods.environment import expand
from edgecore.pods.runtime import Mount
from edgecore.pods.unready import bad_config
from edgecore.pods.volumes import Ready, Volumes

Json = dict[str, Any]
HOSTS = "/etc/hosts"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_MODE = 0o666  # whoever the container runs as writes it
PROPAGATION = ("None", "HostToContainer", "Bidirectional")


def volume_mounts(pod: Json, container: Json, variables: Mapping[str, str], volumes: Volumes) -> list[Mount]:
    """Return the container's volumes as mounts. Raises Unready."""
    known = {volume["name"]: volume for volume in (pod.get("spec") or {}).get("volumes") or ()}
    out = []
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        name = mount.get("name", "")
        if name not in known:
            raise bad_config(f'container {container["name"]} mounts volume "{name}", which the pod does not have')
        try:
            ready = volumes.ready(pod, known[name])
            path = _inside(pod, container, mount, index, variables, ready, volumes)
        except subpaths.Escape as error:
            raise bad_config(f'subPath of volume "{name}": {error}') from error
        except ValueError as error:
            raise bad_config(f'volume "{name}": {error}') from error
        except OSError as error:
            raise bad_config(f'volume "{name}": {error.filename or ""} {error.strerror or error}') from error
        out.append(
            Mount(
                container_path=_absolute(mount.get("mountPath", "")),
                host_path=path,
                readonly=ready.readonly or bool(mount.get("readOnly")),
                propagation=_propagation(container, mount),
            )
        )
    return out


def hosts_mount(place: Path, content: str) -> Mount:
    """Write the pod's /etc/hosts, in place because running containers see this very file. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = ""
    with suppress(OSError):
        held = place.read_text()
    if held != content:
        place.write_text(content)
    place.chmod(0o644)
    return Mount(HOSTS, str(place))


def termination_mount(container: Json, folder: Path, attempt: int) -> Mount:
    """Make an empty file for what the container says at its end; one per attempt. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in folder.glob("termination-*.log"):
        if old.name != f"termination-{attempt - 1}.log":  # the one before may not have been read yet
            old.unlink(missing_ok=True)
    path = folder / f"termination-{attempt}.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, TERMINATION_MODE)
    os.fchmod(descriptor, TERMINATION_MODE)
    os.close(descriptor)
    return Mount(container.get("terminationMessagePath") or TERMINATION_LOG, str(path))


def _inside(
    pod: Json,
    container: Json,
    mount: Json,
    index: int,
    variables: Mapping[str, str],
    ready: Ready,
    volumes: Volumes,
) -> str:
    sub = mount.get("subPath") or ""
    if mount.get("subPathExpr"):
        sub = expand(str(mount["subPathExpr"]), variables)
        if "$(" in sub:
            raise ValueError(f"subPathExpr {mount['subPathExpr']} names a variable that the container does not have")
    if not sub:
        return str(ready.path)
    if sub.startswith("/") or ".." in sub.split("/"):
        raise subpaths.Escape(f"{sub} must be relative and must not contain '..'")
    descriptor = subpaths.open_inside(ready.path, sub, create=not ready.readonly)
    try:
        inside = f"/proc/self/fd/{descriptor}"
        if not volumes.dirs.mounting:
            return str(Path(inside).readlink())
        place = volumes.dirs.subpath(pod["metadata"]["uid"], container["name"], index)
        _show(inside, place)
        return str(place)
    finally:
        os.close(descriptor)


def _show(source: str, place: Path) -> None:
    """Bind what is found now to a name of ours: whatever happens in the volume later, the mount stays inside."""
    for held in mounts.below(place):
        mounts.unmount(held)  # of the container before; the file behind a link may be another one now
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    wants_directory = Path(source).is_dir()
    if place.is_dir() and not wants_directory:
        place.rmdir()
    elif place.exists() and not place.is_dir() and wants_directory:
        place.unlink()
    if wants_directory:
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    mounts.bind(source, place)


def _absolute(path: str) -> str:
    if not path:
        raise bad_config("a volumeMount has no mountPath")
    return str(PurePosixPath("/") / path)


def _propagation(container: Json, mount: Json) -> str:
    wanted = mount.get("mountPropagation") or "None"
    privileged = bool((container.get("securityContext") or {}).get("privileged"))
    if wanted not in PROPAGATION:
        raise bad_config(f"mountPropagation {wanted} is not known")
    if wanted == "Bidirectional" and not privileged:
        raise bad_config("Bidirectional mount propagation is available only to privileged containers")
    if mount.get("recursiveReadOnly") == "Enabled":
        raise bad_config("recursiveReadOnly: Enabled is not supported on this node; IfPossible is")
    return str(wanted)
