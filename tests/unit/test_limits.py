# SPDX-License-Identifier: GPL-2.0-only
"""How much memory we may have, read of files as the kernel makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_iommu.core import limits, process

MIB = 1 << 20


def machine(folder: Path, cgroup: str, mounts: str) -> Path:
    """A /proc/self with these lines; ``{top}`` is where control groups are mounted."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mounts.format(top=folder / "cgroup"))
    return proc


def group(path: Path, limit: str, used: int, cached: int = 0, killed: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon {used - cached}\nfile {cached}\nfile_mapped 1\n")
    (path / "memory.events").write_text(f"low 0\noom 9\noom_kill {killed}\n")


V2 = "26 23 0:24 {root} {{top}} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_limit_of_our_own_group_and_those_above(tmp_path: Path) -> None:
    proc = machine(tmp_path, "0::/user.slice/ci.slice/job\n", V2.format(root="/"))
    group(tmp_path / "cgroup/user.slice/ci.slice/job", "max", 50 * MIB)
    group(tmp_path / "cgroup/user.slice/ci.slice", str(200 * MIB), 150 * MIB, 30 * MIB, killed=2)
    group(tmp_path / "cgroup/user.slice", str(900 * MIB), 400 * MIB)
    first, second = limits.groups(proc)
    assert (first.limit - first.used + first.cached, first.killed) == (80 * MIB, 2)
    assert second.limit == 900 * MIB
    assert str(first) == f"{tmp_path}/cgroup/user.slice/ci.slice/memory.max 200 MiB, 150 MiB of them in use"


@pytest.mark.parametrize(
    ("cgroup", "root"),
    [
        ("0::/docker/abc\n", "/docker/abc"),  # without a namespace of its own: the names of the whole tree
        ("0::/\n", "/"),
        ("0::/../../other\n", "/"),  # somebody else's namespace
        ("0::/gone\n", "/"),
    ],
)
def test_a_container_sees_its_own_part(tmp_path: Path, cgroup: str, root: str) -> None:
    proc = machine(tmp_path, cgroup, V2.format(root=root))
    group(tmp_path / "cgroup", str(200 * MIB), 150 * MIB)
    assert [one.limit for one in limits.groups(proc)] == [200 * MIB]


def test_version_1(tmp_path: Path) -> None:
    mounts = (
        "31 23 0:28 / {top} rw - tmpfs tmpfs rw\n"
        "33 31 0:30 / {top}/cpu rw - cgroup cgroup rw,cpu\n"
        "35 31 0:32 / {top}/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / {top}/unified rw - cgroup2 cgroup2 rw\n"
    )
    proc = machine(tmp_path, "4:memory:/job\n3:cpu:/\n1:name=systemd:/\n0::/\n", mounts)
    for name, limit in (("", 9223372036854771712), ("job", 200 * MIB)):
        path = tmp_path / "cgroup/memory" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (path / "memory.usage_in_bytes").write_text(f"{150 * MIB}\n")
        (path / "memory.stat").write_text(f"cache 5\ntotal_cache {20 * MIB}\n")
        (path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "cgroup/unified").mkdir()
    (found,) = limits.groups(proc)
    assert (found.limit, found.used, found.cached, found.killed) == (200 * MIB, 150 * MIB, 20 * MIB, 3)


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert limits.groups(tmp_path / "nothing") == []
    assert limits.groups(machine(tmp_path, "0::/job\n", "")) == []


def test_the_limits_are_told_of_who_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = machine(tmp_path, "0::/job\n", V2.format(root="/"))
    group(tmp_path / "cgroup/job", str(200 * MIB), 199 * MIB)
    real = limits.groups
    monkeypatch.setattr(limits, "groups", lambda: real(proc))
    assert limits.available_memory() == MIB
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (limits.resource.RLIM_INFINITY,) * 2)
    child = process.Child(["sh", "-c", "kill -KILL $$"])
    assert child.wait(20) == -9
    limit = f"limit {tmp_path}/cgroup/job/memory.max 200 MiB, 199 MiB of them in use"
    assert child.how_it_ended() == f"was killed by SIGKILL (out of memory? 1 MiB are available now; {limit})"
    # The kernel says that it was for want of memory.
    group(tmp_path / "cgroup/job", str(200 * MIB), 10 * MIB, killed=1)
    assert child.how_it_ended().startswith("was killed by SIGKILL (out of memory: 190 MiB are available now; limit ")
    child.close()
    assert process.ended(-15) == "was killed by SIGTERM"
