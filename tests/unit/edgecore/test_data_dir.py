import os
from contextlib import closing

import pytest

from edgecore.data_dir import AlreadyRunning, DataDir, Lock, Running
from edgecore.reset import plan, reset
from proto.kit.database import Tx, connect
from proto.kit.errors import SkerryError
from proto.link import inbox
from tests.kit.clock import ManualClock


def test_a_second_daemon_is_refused_by_name_of_the_first(directory: DataDir) -> None:
    first, second = Lock(directory), Lock(directory)
    first.take()

    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        second.take()
    first.release()


def test_the_lock_says_where_the_daemon_answers(directory: DataDir) -> None:
    lock = Lock(directory)
    lock.take()
    lock.say(Running(pid=7, api_host="127.0.0.1", api_port=10351))

    assert directory.running() == Running(7, "127.0.0.1", 10351)
    lock.release()
    assert directory.running() is None


def test_a_directory_that_is_a_file_gets_a_sentence(directory: DataDir) -> None:
    stranger = directory.path / "file"
    stranger.write_text("")

    with pytest.raises(SkerryError, match="see --data-dir"):
        Lock(DataDir(stranger)).take()


def test_reset_keeps_a_copy_and_leaves_strangers_alone(joined: DataDir) -> None:
    (joined.path / "notes.txt").write_text("mine")
    joined.database.write_bytes(b"state")

    done = reset(joined, purge=False, clock=ManualClock())

    assert not joined.joined()
    assert not joined.database.exists()
    assert (joined.path / "notes.txt").exists()
    assert (joined.path / "quarantine" / "20260101T000000Z" / "edge.db").read_bytes() == b"state"
    assert done["quarantine"].endswith("20260101T000000Z")


def test_reset_may_be_repeated(joined: DataDir) -> None:
    reset(joined, purge=True, clock=ManualClock())

    assert reset(joined, purge=True, clock=ManualClock()) == {"removed": [], "quarantine": ""}
    assert plan(joined) == []


def test_reset_refuses_while_the_daemon_runs(joined: DataDir) -> None:
    lock = Lock(joined)
    lock.take()

    with pytest.raises(AlreadyRunning, match="systemctl stop edgecore"):
        reset(joined, purge=False, clock=ManualClock())
    assert joined.joined()
    lock.release()


def test_reset_can_keep_the_data_and_forget_the_identity(joined: DataDir) -> None:
    with closing(connect(joined.database)) as conn:
        conn.executescript(inbox.SCHEMA)
        inbox.identity(Tx(conn))
        before = conn.execute("SELECT incarnation FROM link_self").fetchone()

    reset(joined, purge=False, keep_data=True, clock=ManualClock())

    assert not joined.joined()
    assert joined.settings.exists()
    with closing(connect(joined.database)) as conn:
        assert conn.execute("SELECT incarnation FROM link_self").fetchone() != before
