"""The CPUs a process may use: its affinity mask, and the quota of its container."""

import os
import pathlib

import pytest

from trainer.process.cpus import available_cpus

V2, V1 = "0::/pod/box\n", "5:memory:/x\n4:cpu,cpuacct:/pod\n0::/\n"


def v1(quota: int, period: int, directory: str = "cpu/pod") -> dict[str, str]:
    return {
        f"{directory}/cpu.cfs_quota_us": f"{quota}\n",
        f"{directory}/cpu.cfs_period_us": f"{period}\n",
    }


CASES = {
    "v2, two CPUs": (V2, {"pod/box/cpu.max": "200000 100000\n"}, 2),
    "v2, part of a CPU": (V2, {"pod/box/cpu.max": "50000 100000\n"}, 1),
    "v2, rounded up": (V2, {"pod/box/cpu.max": "250000 100000\n"}, 3),
    "v2, no limit": (V2, {"pod/box/cpu.max": "max 100000\n"}, 8),
    "v2, limit of the pod": (
        V2,
        {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"},
        4,
    ),
    "v2, own name space": ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
    "v2, path of the host": ("0::/../other\n", {"cpu.max": "300000 100000\n"}, 3),
    "v2, more than there is": (V2, {"pod/box/cpu.max": "6400000 100000\n"}, 8),
    "v2, nonsense": (V2, {"pod/box/cpu.max": "lots\n"}, 8),
    "v1, one and a half": (V1, v1(150000, 100000), 2),
    "v1, no limit": (V1, v1(-1, 100000), 8),
    "v1, path of the host": ("4:cpu,cpuacct:/docker/0123\n", v1(100000, 100000, "cpu"), 1),
    "no files": (V2, {}, 8),
    "no control groups": (None, {"pod/box/cpu.max": "200000 100000\n"}, 8),
}


@pytest.mark.parametrize(("cgroup", "files", "expected"), CASES.values(), ids=CASES)
def test_the_quota_of_the_container_counts(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    cgroup: str | None,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    if cgroup is not None:
        files = {"../../../proc/self/cgroup": cgroup} | files
    for name, content in files.items():
        path = pathlib.Path(os.path.normpath(tmp_path / "sys/fs/cgroup" / name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert available_cpus(tmp_path) == expected


def test_the_affinity_mask_counts_where_the_system_has_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert available_cpus(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(tmp_path) == os.cpu_count()
