"""The CPUs a process may use: its affinity mask, and the quota of its container."""

import os
import pathlib

import pytest

from trainer.process.cpus import available_cpus

QUOTA, PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
CASES = {
    "two CPUs": ({"cpu.max": "200000 100000\n"}, 2),
    "part of a CPU": ({"cpu.max": "50000 100000\n"}, 1),
    "rounded up": ({"cpu.max": "250000 100000\n"}, 3),
    "no limit": ({"cpu.max": "max 100000\n"}, 8),
    "more than there is": ({"cpu.max": "6400000 100000\n"}, 8),
    "nonsense": ({"cpu.max": "lots\n"}, 8),
    "version 1": ({QUOTA: "150000\n", PERIOD: "100000\n"}, 2),
    "version 1, no limit": ({QUOTA: "-1\n", PERIOD: "100000\n"}, 8),
    "no container": ({}, 8),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_the_quota_of_the_container_counts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == expected


def test_the_affinity_mask_counts_where_the_system_has_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert available_cpus(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(tmp_path) == os.cpu_count()
