"""One container: from its plan to a running process, its output, its end, and the commands that run beside it."""

import marshal
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from edgecore.pods.process.shim import cgroup, enter, linux, network, paths
from edgecore.pods.process.shim.files import read_json, write_json
from edgecore.pods.process.shim.logs import LogFile
from edgecore.pods.process.shim.loop import Loop
from edgecore.pods.process.shim.stage import ROOT, STAGED

Json = dict[str, Any]
Reply = Callable[[Json], None]
CHUNK_BYTES = 64 << 10
HIGH_BYTES = 1 << 20  # what may wait in the pipe of somebody attached; who is slower is cut
LIBRARIES = ("/usr", "/bin", "/lib", "/lib32", "/lib64")


class Refused(Exception):
    """Why not; the text is for people."""


class Container:
    """Lives in ``folder``: ``plan.json`` is read, ``state.json`` is written, ``rootfs`` is its root while the pod is there."""

    def __init__(self, folder: str, pod: Json, loop: Loop, ended: Callable[[], None]) -> None:
        self.folder, self._pod, self._loop, self._ended = folder, pod, loop, ended
        self.plan: Json = read_json(f"{folder}/plan.json")
        self.pid = 0  # of the first process
        self._state: Json = {}
        self._log = LogFile(self.plan["log"])
        self._where = cgroup.Hierarchies()
        self._folders = self._where.folders(self.plan["cgroup"])
        self._streams: dict[int, str] = {}
        self._stdin = self._master = -1
        self._audience: dict[int, tuple[str, int]] = {}  # write end -> (stream, connection)
        self._cut: Callable[[int], None] = lambda _: None
        self._code: int | None = None
        self._began = False

    @property
    def running(self) -> bool:
        return self.pid > 0

    # Its beginning

    def start(self, reply: Reply) -> None:
        """Start the first process; ``reply`` is called once it runs, or with the error. Raises Refused, OSError."""
        if self._state:
            raise Refused("the container has been started before")
        root = self._root()
        cgroup.make(self._where, self.plan["cgroup"])
        cgroup.limit(self._where, self.plan["cgroup"], self.plan["limits"])
        argv, plan = self._arguments(root)
        told, error_fd = os.pipe()
        plan_fd = os.memfd_create("plan", 0)
        os.write(plan_fd, marshal.dumps(plan))
        ours, streams, console = self._open_streams()
        words = [str(fd) for fd in (plan_fd, error_fd, console.fileno() if console else -1)]
        self._state = {"started_at_ns": time.time_ns()}
        pid = os.fork()
        if pid == 0:
            self._become(argv + words, streams, [plan_fd, error_fd, *([console.fileno()] if console else [])])
        for fd in (error_fd, plan_fd, *streams):
            os.close(fd)
        if console:
            console.close()
        self._loop.children[pid] = self._exited

        self._hear(told, lambda said: self._begun(said, pid, ours, reply))

    def _hear(self, fd: int, done: Callable[[str], None]) -> None:
        """Read what a child says of its start until it runs its program, or ends."""
        heard: list[bytes] = []

        def ready(_: int) -> None:
            data = os.read(fd, 4096)
            if data:
                heard.append(data)
                return
            self._loop.remove(fd)
            os.close(fd)
            done(b"".join(heard).decode(errors="replace"))

        self._loop.add(fd, ready)

    def _root(self) -> str:
        root, lower = f"{self.folder}/rootfs", self.plan["lower"]
        for name in ("rootfs", "upper", "work"):
            os.makedirs(f"{self.folder}/{name}", mode=0o755, exist_ok=True)
        options = ",".join(
            f"{name}dir={_escaped(path)}"
            for name, path in (("lower", lower), ("upper", f"{self.folder}/upper"), ("work", f"{self.folder}/work"))
        )
        try:
            linux.mount("overlay", root, "overlay", linux.MS_NODEV, options)
        except OSError as error:
            _without_overlay(lower, root, error)
        for hidden in self.plan["hidden"]:
            place = root + paths.resolve(root, hidden)
            if os.path.isdir(place):
                linux.mount(
                    "tmpfs",
                    place,
                    "tmpfs",
                    linux.MS_NODEV | linux.MS_NOSUID,
                    "mode=1777" if hidden.endswith("tmp") else "mode=755",
                )
        return root

    def _arguments(self, root: str) -> tuple[list[str], Json]:
        """Return bubblewrap's command line up to the words of the stage, and what the stage reads. Raises Refused."""
        plan, pod = self.plan, self._pod
        own = [[path, source, "ro"] for path, source in pod["files"].items()]
        wanted = [*own, *([path, source, "ro" if ro else "rw"] for path, source, ro, _ in plan["mounts"])]
        wanted += [[path, source, "dev"] for path, source in plan["devices"]]
        by_path = {path: (path, source, how) for path, source, how in wanted}  # a container's own mount wins
        ordered = sorted(by_path.values(), key=lambda one: one[0].count("/"))
        try:
            places = paths.targets(root, [[path, source] for path, source, _ in ordered])
        except paths.Unsafe as error:
            raise Refused(str(error)) from error
        argv = [self._pod["bwrap"], "--die-with-parent"]
        if plan["own_pid"]:
            argv += ["--unshare-pid", "--as-pid-1"]
        argv += _interpreter(pod["roots"])
        argv += ["--bind", root, ROOT, "--proc", f"{ROOT}/proc"]
        argv += ["--dev-bind", "/dev", f"{ROOT}/dev"] if plan["privileged"] else ["--dev", f"{ROOT}/dev"]
        argv += ["--bind" if plan["privileged"] else "--ro-bind", pod["sys"], f"{ROOT}/sys"]
        argv += ["--bind", pod["shm"], f"{ROOT}/dev/shm"] if pod["shm"] else []
        words = {"ro": "--ro-bind", "rw": "--bind", "dev": "--dev-bind"}
        for (_, source, how), place in zip(ordered, places, strict=True):
            argv += [words[how], source, ROOT + place]
        spread = {path: propagation for path, _, _, propagation in plan["mounts"]}
        targets = [[place, spread.get(one[0], "")] for one, place in zip(ordered, places, strict=True)]
        argv += ["--chdir", "/", "--", *pod["python"], "stage"]
        return argv, {**plan, "targets": targets, "leashed": True}

    def _open_streams(self) -> tuple[dict[int, str], tuple[int, int, int], socket.socket | None]:
        """Return our ends, the process's three, and the socket through which its terminal comes."""
        if self.plan["tty"]:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            nothing = [os.open("/dev/null", os.O_RDWR) for _ in range(3)]
            return {ours.detach(): "console"}, (nothing[0], nothing[1], nothing[2]), theirs
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        if self.plan["stdin"]:
            in_end, self._stdin = os.pipe()
        else:
            in_end = os.open("/dev/null", os.O_RDONLY)
        return {out: "stdout", err: "stderr"}, (in_end, out_end, err_end), None

    def _become(self, argv: list[str], streams: tuple[int, int, int], kept: list[int]) -> None:
        """In the child: the cgroup first, then bubblewrap."""
        try:
            cgroup.join(self._folders)
            _weigh(int(self.plan["oom_score_adj"]))
            for at, fd in enumerate(streams):
                os.dup2(fd, at)
            for fd in kept:
                os.set_inheritable(fd, True)
            enter.default_signals()
            os.execv(argv[0], argv)
        except OSError as error:
            os.write(kept[1], f"{error.filename or 'start'}: {error.strerror}".encode())
        finally:
            os._exit(enter.NOT_FOUND)

    def _begun(self, said: str, outer: int, ours: dict[int, str], reply: Reply) -> None:
        staged, error = said[:1] == STAGED, said[1:]
        if not staged:
            error = said or _words(next((fd for fd, name in ours.items() if name == "stderr"), -1))
        if not staged and not error:
            error = "bubblewrap (bwrap) ended without a word"
        self.pid = _child_of(outer)
        if error:
            self._state["error"] = error
        for fd, stream in ours.items():
            if stream == "console":
                sock = socket.socket(fileno=fd)
                if not error:
                    _, (self._master,), _, _ = socket.recv_fds(sock, 1, 1)
                    self._listen(self._master, "stdout")
                sock.close()
            else:
                self._listen(fd, stream)
        self._began = True
        if error:
            self.pid = 0
            reply({"error": error})
        else:
            if self._code is None:
                self._save(pid=self.pid)
            reply({"pid": self.pid})
        self._settle()

    # Its output

    def _listen(self, fd: int, stream: str) -> None:
        os.set_blocking(fd, False)
        self._streams[fd] = stream
        self._loop.add(fd, lambda _: self._heard(fd))

    def _heard(self, fd: int) -> None:
        stream = self._streams[fd]
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody holds any more
            data = b""
        if data:
            self._log.write(stream, data)
            self._show(stream, data)
            return
        self._loop.remove(fd)
        del self._streams[fd]
        self._log.finish(stream)
        if fd == self._master:
            self._master = -1
        os.close(fd)
        for end in [end for end, (name, _) in self._audience.items() if name == stream]:
            self._dismiss(end)
        self._settle()

    def _show(self, stream: str, data: bytes) -> None:
        for end, (wanted, connection) in list(self._audience.items()):
            if wanted != stream:
                continue
            try:
                if os.write(end, data) == len(data):
                    continue
            except BlockingIOError:
                self._cut(connection)
            except OSError:
                pass  # left
            else:
                self._cut(connection)
            self._dismiss(end)

    def _dismiss(self, end: int) -> None:
        if self._audience.pop(end, None) is not None:
            os.close(end)

    def attach(self, connection: int, cut: Callable[[int], None]) -> tuple[list[str], list[int]]:
        """Return names and descriptors for somebody who attaches: what they read, and where they write. The caller closes them."""
        self._cut = cut
        names, fds = [], []
        for stream in sorted(set(self._streams.values())):
            source, sink = os.pipe()
            os.set_blocking(sink, False)
            _widen(sink)
            self._audience[sink] = (stream, connection)
            names.append(stream)
            fds.append(source)
        entry = self._master if self._master >= 0 else self._stdin
        if entry >= 0:
            names.append("terminal" if entry == self._master else "stdin")
            fds.append(os.dup(entry))
        return names, fds

    def left(self, connection: int) -> None:
        """Somebody who was attached is gone."""
        for end in [end for end, (_, who) in self._audience.items() if who == connection]:
            self._dismiss(end)

    def input_over(self) -> None:
        """Whoever was to write to standard input is done."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def reopen(self) -> None:
        self._log.open()

    # Its end

    def signal(self, number: int, *, everything: bool) -> None:
        """Send a signal to the first process, or end all that is in the container."""
        if everything:
            if self.pid > 0:
                _kill(self.pid, number)
            cgroup.kill(self._folders)
        elif self.pid > 0:
            _kill(self.pid, number)

    def _exited(self, code: int) -> None:
        self._code = code
        cgroup.kill(self._folders)
        self._settle()

    def _settle(self) -> None:
        """Once the process has ended and all of its output is here: write how it was."""
        if self._code is None or not self._began or self._streams or "finished_at_ns" in self._state:
            return
        oom = cgroup.out_of_memory(self._where, self.plan["cgroup"]) > 0
        cgroup.remove(self._folders)
        self.input_over()
        self._log.close()
        self.pid = 0
        self._unmount()
        self._save(exit_code=self._code, oom=oom and self._code != 0, finished_at_ns=time.time_ns())
        self._ended()

    def _unmount(self) -> None:
        for _ in range(1 + len(self.plan["hidden"])):
            try:
                linux.unmount(f"{self.folder}/rootfs")
            except OSError:
                return

    def _save(self, **more: Any) -> None:
        self._state.update(more)
        try:
            write_json(f"{self.folder}/state.json", self._state)
        except OSError:
            return  # a full disk: edgecore asks us while we live, and calls the end unknown afterwards

    # Commands beside it

    def execute(self, argv: list[str], fds: list[int], *, tty: bool, reply: Reply, ended: Callable[[int], None]) -> int:
        """Run a command in the container; returns its pid. ``fds``: standard streams, or the socket for the terminal. Raises Refused."""
        if not self.running or self._code is not None:
            raise Refused("the container does not run")
        told, error_fd = os.pipe()
        whose, tell = os.pipe()
        order: list[int] = []  # the exit code when that came first; anything once the start was told
        helper = os.fork()
        if helper == 0:
            self._step_in(argv, fds, tty, error_fd, tell)
        os.close(error_fd)
        os.close(tell)
        pid = int(os.read(whose, 32) or b"0") if self.plan["own_pid"] else helper
        os.close(whose)
        if pid > 0:
            self._loop.children[pid] = lambda code: order.append(code) if not order else ended(code)

        def spoken(said: str) -> None:
            reply({"error": said} if said or not pid else {"pid": pid})
            if order and not said:  # it was faster than its own start
                ended(order[0])
            order.append(-1)

        self._hear(told, spoken)
        return pid

    def _step_in(self, argv: list[str], fds: list[int], tty: bool, error_fd: int, tell: int) -> None:
        try:
            cgroup.join(self._folders)
            _weigh(int(self.plan["oom_score_adj"]))
            enter.namespaces(self.pid)
            if self.plan["own_pid"]:  # else this process is in the right one already, and its number is known
                pid = os.fork()
                if pid:
                    os.write(tell, b"%d" % pid)
                    os._exit(0)
            os.setsid()
            if not tty:
                for at, fd in enumerate(fds):
                    os.dup2(fd, at)
            enter.run(self.plan, argv, dict(self.plan["env"]), fds[0] if tty else -1, error_fd)
        except OSError as error:
            os.write(error_fd, f"{error.filename or 'exec'}: {error.strerror}".encode())
        finally:
            os._exit(enter.NOT_FOUND)


def _interpreter(roots: list[str]) -> list[str]:
    """What bubblewrap must show of this machine for the stage to run; the container sees none of it."""
    argv: list[str] = []
    for path in dict.fromkeys([*LIBRARIES, *roots]):
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            argv += ["--ro-bind", path, path]
    return argv


def _child_of(outer: int) -> int:
    """Return the first process of the container: bubblewrap's only child. 0: it has ended already."""
    try:
        with open(f"/proc/{outer}/task/{outer}/children", encoding="utf-8") as file:
            return int((file.read().split() or ["0"])[0])
    except FileNotFoundError:  # a kernel without that file, or bubblewrap has ended too
        pass
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                if name.isdecimal() and int(file.read().rpartition(")")[2].split()[1]) == outer:
                    return int(name)
        except OSError:
            continue
    return 0


def _weigh(score: int) -> None:
    """Set how soon the kernel kills this process for memory; as low as we may."""
    for value in (score, max(score, 0)):
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
                file.write(str(value))
        except OSError:
            continue
        return


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return


def _widen(fd: int) -> None:
    import fcntl  # noqa: PLC0415  only for who attaches

    try:
        fcntl.fcntl(fd, 1031, HIGH_BYTES)  # F_SETPIPE_SZ
    except OSError:
        return


def _without_overlay(lower: str, root: str, why: OSError) -> None:
    """Where overlayfs cannot be used (not in the kernel, or the data directory lies on one): a copy. Raises Refused."""
    if lower == "/":
        linux.mount("/", root, "", linux.MS_BIND)  # mount points that are not there cannot be made
        return
    code, said = network.run(["cp", "-a", "--reflink=auto", f"{lower}/.", root], "")
    if code:
        raise Refused(f"no root file system: overlayfs: {why.strerror}; a copy: {said.strip() or code}")


def _escaped(path: str) -> str:
    """Return a path as an option of overlayfs."""
    return "".join("\\" + c if c in ",:\\" else c for c in path)


def _words(fd: int) -> str:
    """Return what waits in a pipe."""
    try:
        os.set_blocking(fd, False)
        return os.read(fd, 4096).decode(errors="replace").strip()
    except OSError:
        return ""
