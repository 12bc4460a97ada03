"""The image as Dockerfile.gpu describes it; and, where podman is, the pods that run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import runs

import trainer


def instructions() -> list[tuple[str, str]]:
    """Dockerfile.gpu as pairs of instruction and arguments, without comments and line breaks."""
    text = (runs.ROOT / "Dockerfile.gpu").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def test_the_image_starts_the_trainer_as_the_user_that_the_manifests_name() -> None:
    found = dict(instructions())  # the last instruction of a kind is the final image's
    assert ("ARG", f"VERSION={trainer.__version__}") in instructions()
    assert json.loads(found["ENTRYPOINT"]) == ["python", "-m", "trainer.task"]  # gets the signals
    assert "CMD" not in found
    user, group = map(int, found["USER"].split(":"))
    for file in ("base/job.yaml", "base/tensorboard.yaml", "collector.yaml"):
        manifest = (runs.ROOT / "k8s" / file).read_text()
        assert f"runAsUser: {user}\n" in manifest
        assert f"runAsGroup: {group}\n" in manifest


@pytest.mark.slow
def test_the_pods_of_the_cpu_overlays_run_stop_resume_and_train_together() -> None:
    if not (shutil.which("podman") and shutil.which("kubectl")) or os.geteuid() != 0:
        pytest.skip("needs root, podman and kubectl")
    command = [sys.executable, runs.ROOT / "scripts/container_check.py"]
    if image := os.environ.get("CONTAINER_CHECK_IMAGE"):  # where no registry can be reached
        command.append(f"--image={image}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-10_000:]
    assert done.stdout.endswith("every check passed\n")
