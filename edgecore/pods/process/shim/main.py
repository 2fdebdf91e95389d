"""The supervisor's life: make the pod's namespaces, serve edgecore on a socket in the pod's folder, end with the pod.

Messages are JSON, one a packet, descriptors beside them; what each asks is in ``Server``. It holds a lock on ``lock`` while it
lives: who can take that lock knows that it is gone (PROC-2).
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from typing import Any

from edgecore.pods.process.shim import cgroup, linux, network
from edgecore.pods.process.shim.container import Container, Refused
from edgecore.pods.process.shim.files import read_json, write_json
from edgecore.pods.process.shim.forward import Forwarder, PortTaken, listen
from edgecore.pods.process.shim.loop import Loop

Json = dict[str, Any]
SOCKET, LOCK, STATE, POD = "sock", "lock", "state.json", "pod.json"
MAX_MESSAGE_BYTES = 192 << 10
MAX_FDS = 8
READY = "ready"


def main() -> None:
    folder, told = sys.argv[1], int(sys.argv[2])
    if os.fork():
        os._exit(0)  # the supervisor is nobody's child
    os.chdir(folder)
    os.umask(0o022)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        pod = read_json(POD)
        server = Server(folder, pod)
        server.open()
    except (OSError, ValueError, network.NoNetwork, PortTaken, Refused) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        os.write(told, said.encode(errors="replace")[:4000])
        os._exit(1)
    os.write(told, READY.encode())
    os.close(told)
    server.serve()


class Server:
    """One pod. A message is {"op": name, ...}; the answer has "error" when something was refused."""

    def __init__(self, folder: str, pod: Json) -> None:
        self._folder, self._pod = folder, pod
        self._loop = Loop()
        self._containers: dict[str, Container] = {}
        self._watchers: set[int] = set()
        self._connections: dict[int, socket.socket] = {}
        self._commands: dict[int, int] = {}  # connection -> pid of the command that belongs to it
        self._attached: dict[int, Container] = {}
        self._forwarder: Forwarder | None = None

    def open(self) -> None:
        """Make the pod. Raises OSError, NoNetwork, PortTaken."""
        pod = self._pod
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # commands run beside a container become ours
        self._own_cgroup()
        listening = listen(pod["ports"])
        if pod["network"]:
            network.join(pod["network"], pod["network_lock"])
        flags = linux.CLONE_NEWNS | (linux.CLONE_NEWUTS if pod["hostname"] else 0)
        linux.unshare(flags | (0 if pod["host_ipc"] else linux.CLONE_NEWIPC))
        linux.mount("", "/", "", linux.MS_SLAVE | linux.MS_REC)
        self._mounts()
        if pod["hostname"]:
            socket.sethostname(pod["hostname"])
        self._sysctls()
        if pod["share_pid"]:
            linux.unshare(linux.CLONE_NEWPID)
            self._first_process()
        if listening and pod["network"]:
            self._forwarder = Forwarder(self._loop, listening, pod["network"]["address"])
        self._listen()
        addresses = [pod["network"]["address"]] if pod["network"] else []
        write_json(f"{self._folder}/{STATE}", {"pid": os.getpid(), "ips": addresses})

    def serve(self) -> None:
        self._loop.run()
        os._exit(0)

    # Opening

    def _own_cgroup(self) -> None:
        where = cgroup.Hierarchies()
        path = self._pod["cgroup"]
        with contextlib.suppress(OSError):  # what may not be there costs accounting only
            cgroup.make(where, path)
            cgroup.join(where.folders(path))

    def _mounts(self) -> None:
        for name in ("shm", "sys", "containers"):
            os.makedirs(name, mode=0o755, exist_ok=True)
        if self._pod["own_shm"]:
            options = "mode=1777,size=64m"
            linux.mount("shm", self._pod["shm"], "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, options)
        if self._pod["network"]:  # /sys shows the network of whoever mounts it
            flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
            linux.mount("sysfs", self._pod["sys"], "sysfs", flags)

    def _sysctls(self) -> None:
        """Set what the pod asks for; a hardened unit sees /proc/sys read-only, so it is mounted anew for that."""
        home = "/proc"
        if self._pod["sysctls"] and not os.access("/proc/sys/net/ipv4", os.W_OK):
            home = f"{self._folder}/proc"
            os.makedirs(home, mode=0o700, exist_ok=True)
            linux.mount("proc", home, "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        for name, value in self._pod["sysctls"].items():
            with open(f"{home}/sys/{name.replace('.', '/')}", "w", encoding="utf-8") as file:
                file.write(value)
        if home != "/proc":
            linux.unmount(home)

    def _first_process(self) -> None:
        """Begin the pod's process namespace with one that only reaps."""
        mine = os.getpid()
        pid = os.fork()
        if pid:
            self._loop.children[pid] = self._first_ended
            return
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() not in {0, mine}:
            os._exit(1)
        os.closerange(3, 1024)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                signal.sigwait({signal.SIGCHLD})

    def _first_ended(self, _: int) -> None:
        self._end_all()
        self._loop.running = False

    def _listen(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(SOCKET)
        os.chmod(SOCKET, 0o600)
        sock.listen(64)
        sock.setblocking(False)
        self._listening = sock
        self._loop.add(sock.fileno(), self._accept)

    # Serving

    def _accept(self, _: int) -> None:
        try:
            sock, _where = self._listening.accept()
        except OSError:
            return
        fd = sock.fileno()
        self._connections[fd] = sock
        self._loop.add(fd, lambda _: self._arrived(fd))

    def _arrived(self, connection: int) -> None:
        sock = self._connections[connection]
        try:
            data, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE_BYTES, MAX_FDS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._hang_up(connection)
            return
        try:
            message = json.loads(data)
            handler = getattr(self, f"on_{message['op']}")
            handler(connection, message, fds)
        except Refused as error:
            self._reply(connection, {"error": str(error)})
        except OSError as error:
            self._reply(connection, {"error": f"{error.filename}: {error.strerror}" if error.filename else str(error)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._reply(connection, {"error": f"not understood: {error!r}"})
        finally:
            for fd in fds:
                os.close(fd)

    def _hang_up(self, connection: int) -> None:
        self._loop.remove(connection)
        self._connections.pop(connection).close()
        self._watchers.discard(connection)
        pid = self._commands.pop(connection, 0)
        if pid:
            self._kill_command(pid)
        container = self._attached.pop(connection, None)
        if container is not None:
            container.left(connection)

    def _reply(self, connection: int, message: Json, fds: list[int] | None = None) -> None:
        sock = self._connections.get(connection)
        if sock is None:
            return
        try:
            socket.send_fds(sock, [json.dumps(message).encode()], fds or [], socket.MSG_DONTWAIT)
        except OSError:
            return  # it left, or does not read: its own loss

    def _container(self, message: Json) -> Container:
        found = self._containers.get(message["id"])
        if found is None:
            raise Refused("the container does not run")
        return found

    # What edgecore may ask

    def on_start(self, connection: int, message: Json, _: list[int]) -> None:
        """Start a container of the folder ``containers/ID``."""
        name = message["id"]
        if name in self._containers or "/" in name:
            raise Refused("the container has been started before")
        folder = f"{self._folder}/containers/{name}"
        container = Container(folder, self._pod, self._loop, lambda: self._ended(name))
        self._containers[name] = container
        try:
            container.start(lambda answer: self._reply(connection, answer))
        except (OSError, Refused):
            del self._containers[name]
            raise

    def on_signal(self, connection: int, message: Json, _: list[int]) -> None:
        found = self._containers.get(message["id"])
        if found is not None:
            found.signal(int(message["signal"]), everything=bool(message["everything"]))
        self._reply(connection, {})

    def on_reopen(self, connection: int, message: Json, _: list[int]) -> None:
        self._container(message).reopen()
        self._reply(connection, {})

    def on_exec(self, connection: int, message: Json, fds: list[int]) -> None:
        """Run a command; a second message {"exit": code} follows its end. It is killed when the connection ends."""

        def ended(code: int) -> None:
            self._commands.pop(connection, None)
            self._reply(connection, {"exit": code})

        def reply(answer: Json) -> None:
            self._reply(connection, answer)

        pid = self._container(message).execute(message["argv"], fds, tty=bool(message["tty"]), reply=reply, ended=ended)
        self._commands[connection] = pid

    def on_kill(self, connection: int, _message: Json, _: list[int]) -> None:
        """End the connection's command."""
        pid = self._commands.get(connection, 0)
        if pid:
            self._kill_command(pid)

    def on_attach(self, connection: int, message: Json, _: list[int]) -> None:
        container = self._container(message)

        def cut(who: int) -> None:
            self._reply(who, {"cut": "the reader was too slow"})

        names, fds = container.attach(connection, cut)
        self._attached[connection] = container
        self._reply(connection, {"streams": names}, fds)
        for fd in fds:
            os.close(fd)

    def on_input_over(self, connection: int, message: Json, _: list[int]) -> None:
        self._container(message).input_over()
        self._reply(connection, {})

    def on_connect(self, connection: int, message: Json, _: list[int]) -> None:
        """Open a TCP connection in the pod's network; its descriptor comes with the answer."""
        sock = socket.socket()
        try:
            sock.settimeout(5)  # to ourselves: it is there or it is not
            sock.connect(("127.0.0.1", int(message["port"])))
            self._reply(connection, {}, [sock.fileno()])
        except OSError as error:
            self._reply(connection, {"error": error.strerror or str(error)})
        finally:
            sock.close()

    def on_watch(self, connection: int, _message: Json, _: list[int]) -> None:
        """From now on {"ended": ID} comes for each container that ends."""
        self._watchers.add(connection)
        self._reply(connection, {})

    def on_stop(self, connection: int, _message: Json, _: list[int]) -> None:
        """End everything, and this process too; the connection ends when all is written."""
        if self._forwarder is not None:
            self._forwarder.close()
        if self._pod["network"]:
            network.leave()
        self._end_all()
        self._stopping = connection
        self._if_all_ended()

    _stopping = -1

    def _end_all(self) -> None:
        for container in self._containers.values():
            container.signal(signal.SIGKILL, everything=True)

    def _ended(self, name: str) -> None:
        self._containers.pop(name, None)
        for connection in list(self._watchers):
            self._reply(connection, {"ended": name})
        if self._stopping >= 0:
            self._if_all_ended()

    def _if_all_ended(self) -> None:
        if not self._containers:
            self._loop.running = False

    @staticmethod
    def _kill_command(pid: int) -> None:
        for target in (-pid, pid):  # it leads a session
            with contextlib.suppress(OSError):
                if target < 0:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)
