"""Several workers, as processes of `trainer.task` on loopback, and all that may happen to them."""

from __future__ import annotations

import pathlib
import signal

import pytest
import runs
from cluster import Workers, steps, temporary_files, wait_until

# The same for 1, 2, 3 and 4 replicas: eleven steps an epoch.
FLAGS = (*runs.FLAGS, "--batch_size=48")
# More than any test waits for.
ENDLESS = "--epochs=100000"


def flags(data: pathlib.Path, directory: pathlib.Path, *more: str) -> tuple[str, ...]:
    return (*FLAGS, f"--data_dir={data}", f"--model_dir={directory}", *more)


def alone(*args: str) -> None:
    """Runs one process to its end."""
    process = runs.task(*args)
    _, err = process.communicate()
    assert process.returncode == 0, err


def trains(directory: pathlib.Path, beyond: int = 0) -> None:
    """Waits until a checkpoint beyond a step is there."""
    wait_until(lambda: steps(directory)[:1] > [beyond], f"there is a checkpoint beyond {beyond}")


@pytest.fixture(scope="module")
def undisturbed(tiny_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of three epochs on two virtual devices."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    alone(*flags(tiny_dir, directory, "--epochs=3", "--virtual_devices=2"))
    return directory


def test_two_workers_that_are_stopped_killed_and_started_again_equal_two_devices(
    undisturbed: pathlib.Path, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    # The loss of each step is needed by nobody, so more epochs only make time to disturb them.
    args = flags(tiny_dir, directory, "--epochs=3", "--peer_timeout_s=20")
    with Workers(2, *args, "--checkpoint_every=1") as workers:
        trains(directory)
        workers.send(1, signal.SIGTERM)
        stopped = workers.left()
        saved = steps(directory)[0]
        assert [worker.code for worker in stopped.values()] == [143, 143]
        for worker in stopped.values():
            assert f"progress is saved at step {saved};" in worker.err
            assert worker.err.count("\n") == 1
        assert saved < 33

        workers.start(0)
        workers.start(1)
        trains(directory, saved)
        workers.send(0, signal.SIGKILL)
        lost = workers.left(1, within_s=15)[1]
        assert lost.code == 138
        assert f"worker 0 ({workers.addresses[0]}) was lost" in lost.err
        assert lost.err.count("\n") == 1
        workers.left(0)

        (directory / ".partial-0123abcd-metrics.json").touch()  # as a killed chief may leave
        workers.start(0)
        workers.start(1)
        ended = workers.left()
        assert [worker.code for worker in ended.values()] == [0, 0], ended
        assert "resumed at step" in ended[0].out
        assert ended[1].out == ended[1].err == ""
    assert temporary_files(directory) == []

    here, there = runs.result(directory), runs.result(undisturbed)
    different = {name for name in here if here[name] != there[name]}
    assert different == {"strategy", "workers"}
    assert here["workers"] == 2
    assert here["replicas"] == there["replicas"] == 2
    assert here["weights_sha256"] == there["weights_sha256"]

    # A worker that starts after the end has nothing to wait for.
    with Workers(2, *args, start=(1,)) as workers:
        assert workers.left(1)[1].code == 0
