"""The image and the pods of the CPU overlays, run for real where podman is."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_pods_of_the_cpu_overlays_run_stop_resume_and_train_together() -> None:
    missing = [
        tool
        for tool in ("podman", "buildah", "runc", "kubectl", "debootstrap")
        if not shutil.which(tool)
    ]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian packages of these names; kubectl)")
    if os.geteuid() != 0:
        pytest.skip("needs root, which podman's limits and volumes take here")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/container_check.py", "--debootstrap", "bookworm"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:]
    assert done.stdout.endswith("every check passed\n")
