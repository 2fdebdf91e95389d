"""cgroups of either version, and of machines that mix them (PROC-6)."""

from pathlib import Path

import pytest

from edgecore.pods.process.shim import cgroup

LIMITS = {"cpu_shares": 512, "cpu_quota_us": 50_000, "cpu_period_us": 100_000, "memory_bytes": 1 << 20, "pids": 9}


def machine(tmp_path: Path, *, v1: tuple[str, ...], v2: str | None) -> cgroup.Hierarchies:
    lines = [f"30 29 0:1 / {tmp_path}/{name} rw - cgroup cgroup rw,{name}" for name in v1]
    for name in v1:
        (tmp_path / name).mkdir()
    if v2 is not None:
        unified = tmp_path / "unified"
        unified.mkdir()
        (unified / "cgroup.controllers").write_text(v2)
        lines.append(f"31 29 0:2 / {unified} rw - cgroup2 cgroup2 rw")
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("".join(f"{line}\n" for line in lines))
    return cgroup.Hierarchies(str(mountinfo))


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("")


def test_version_one_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    where = machine(tmp_path, v1=("cpu", "memory", "pids"), v2=None)
    cgroup.make(where, "/pods/a")
    files(tmp_path / "cpu/pods/a", "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us")
    files(tmp_path / "memory/pods/a", "memory.limit_in_bytes")
    files(tmp_path / "pids/pods/a", "pids.max")

    assert cgroup.limit(where, "/pods/a", LIMITS) == []

    assert (where.version, len(where.folders("/pods/a"))) == (1, 3)
    assert (tmp_path / "cpu/pods/a/cpu.shares").read_text() == "512"
    assert (tmp_path / "cpu/pods/a/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "memory/pods/a/memory.limit_in_bytes").read_text() == str(1 << 20)
    assert (tmp_path / "pids/pods/a/pids.max").read_text() == "9"


def test_version_two_has_one_folder_and_passes_controllers_down(tmp_path: Path) -> None:
    where = machine(tmp_path, v1=(), v2="cpu memory pids")
    unified = tmp_path / "unified"
    files(unified, "cgroup.subtree_control")
    cgroup.make(where, "/a")
    files(
        unified / "a", "cpu.weight", "cpu.max", "memory.max", "pids.max", "memory.events", "cpu.stat", "memory.current"
    )
    (unified / "a/memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    (unified / "a/cpu.stat").write_text("usage_usec 7\n")
    (unified / "a/memory.current").write_text("4096")

    assert cgroup.limit(where, "/a", LIMITS) == []

    assert (where.version, where.folders("/a")) == (2, [f"{unified}/a"])
    assert (unified / "cgroup.subtree_control").read_text() != ""
    assert (unified / "a/cpu.max").read_text() == "50000 100000"
    assert (unified / "a/memory.max").read_text() == str(1 << 20)
    assert cgroup.out_of_memory(where, "/a") == 1
    assert cgroup.usage(where, "/a") == (7000, 4096)


def test_a_hybrid_machine_is_taken_as_version_one(tmp_path: Path) -> None:
    where = machine(tmp_path, v1=("cpu", "memory"), v2="hugetlb")

    assert where.version == 1
    assert all("unified" not in folder for folder in where.folders("/a"))


@pytest.mark.parametrize("v2", [None, "hugetlb"])
def test_a_machine_without_controllers_has_no_limits_and_no_errors(tmp_path: Path, v2: str | None) -> None:
    where = machine(tmp_path, v1=(), v2=v2)
    cgroup.make(where, "/a")

    assert (where.version, where.folders("/a"), cgroup.limit(where, "/a", {**LIMITS, "memory_bytes": 0})) == (0, [], [])
    assert cgroup.usage(where, "/a") == (0, 0)
