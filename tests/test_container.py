"""The image as Dockerfile.gpu describes it; and, where podman is, the pods that run it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent


def instructions() -> list[tuple[str, str]]:
    """Dockerfile.gpu as pairs of instruction and arguments, without comments and line breaks."""
    text = (ROOT / "Dockerfile.gpu").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def last(instruction: str) -> str:
    """What the last instruction of a kind says, which is the final image's."""
    return [arguments for name, arguments in instructions() if name == instruction][-1]


def test_the_image_is_labelled_with_the_version_of_the_package() -> None:
    assert ("ARG", f"VERSION={trainer.__version__}") in instructions()


def test_the_trainer_itself_gets_the_signals() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["python", "-m", "trainer.task"]
    assert not any(name == "CMD" for name, _ in instructions())


def test_the_image_runs_as_the_user_that_the_manifests_name() -> None:
    user, group = last("USER").split(":")
    for file in ("base/job.yaml", "base/tensorboard.yaml", "collector.yaml"):
        manifest = (ROOT / "k8s" / file).read_text()
        assert f"runAsUser: {int(user)}\n" in manifest
        assert f"runAsGroup: {int(group)}\n" in manifest


@pytest.mark.slow
def test_the_pods_of_the_cpu_overlays_run_stop_resume_and_train_together() -> None:
    missing = [tool for tool in ("podman", "kubectl") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, podman and kubectl (missing: {', '.join(missing) or 'root'})")
    command = [sys.executable, ROOT / "scripts/container_check.py"]
    if image := os.environ.get("CONTAINER_CHECK_IMAGE"):  # where no registry can be reached
        command.append(f"--image={image}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-10_000:]
    assert done.stdout.endswith("every check passed\n")
