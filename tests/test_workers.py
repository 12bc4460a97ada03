"""Several workers, as processes of `trainer.task` on loopback, and all that may happen to them."""

from __future__ import annotations

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
import runs
from cluster import Workers, steps, temporary_files, wait_until
from data_mirror import gz_files, write

from trainer.cluster.devices import describe

FLAGS = (*runs.FLAGS, "--batch_size=48")  # for 1 to 4 replicas; eleven steps an epoch
ENDLESS = "--epochs=100000"


def flags(data: pathlib.Path, directory: pathlib.Path, *more: str) -> tuple[str, ...]:
    return (*FLAGS, f"--data_dir={data}", f"--model_dir={directory}", *more)


def alone(*args: str) -> None:
    process = runs.task(*args)
    _, err = process.communicate()
    assert process.returncode == 0, err


def trains(directory: pathlib.Path, beyond: int = 0) -> None:
    """Waits until a checkpoint beyond a step is there."""
    wait_until(lambda: steps(directory)[:1] > [beyond], f"there is a checkpoint beyond {beyond}")


def lost_named(workers: Workers, lost: int, *others: int) -> None:
    """Checks that the others leave with 138 and one line that names the lost worker."""
    for index, left in workers.left(*others, within_s=30).items():
        assert left.code == 138, left
        assert f"worker {lost} ({workers.addresses[lost]}) was lost" in left.err
        assert left.err.count("\n") == 1, f"worker {index}: {left.err}"


def damage(directory: pathlib.Path, step: int) -> None:
    """Cuts off the end of a checkpoint."""
    (data,) = (directory / "checkpoints").glob(f"step-{step}.data-*")
    data.write_bytes(data.read_bytes()[:-1000])


def start_where(mounted: str, workers: Workers, index: int) -> None:
    """Starts a worker that alone sees what a shell command mounts; skips where none may mount."""
    inside = ("unshare", "--mount", "sh", "-c")
    if not shutil.which("unshare") or subprocess.run([*inside, mounted], check=False).returncode:
        pytest.skip("needs Linux and the right to mount: unshare --mount failed")
    workers.start(index, within=(*inside, f'{mounted} && exec "$@"', "sh"))


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
    args = flags(tiny_dir, directory, "--epochs=3")
    with Workers(2, *args, "--checkpoint_every=1") as workers:
        trains(directory)
        workers.send(1, signal.SIGTERM)
        stopped = workers.left()
        saved = steps(directory)[0]
        assert [worker.code for worker in stopped.values()] == [143, 143]
        for worker in stopped.values():
            assert f"progress is saved at step {saved};" in worker.err
            assert worker.err.count("\n") == 1

        workers.start(0)
        workers.start(1)
        trains(directory, saved)
        workers.send(0, signal.SIGSTOP)
        lost_named(workers, 0, 1)
        workers.send(0, signal.SIGKILL)
        workers.left(0)

        (directory / ".partial-0123abcd-metrics.json").touch()  # as a killed chief may leave
        workers.start(0)
        workers.start(1)
        ended = workers.left()
        assert [worker.code for worker in ended.values()] == [0, 0], ended
        assert "resumed at step" in ended[0].out
    assert temporary_files(directory) == []

    here, there = runs.result(directory), runs.result(undisturbed)
    assert len(here.pop("history")) == len(there.pop("history")) == 3
    assert {name for name in here if here[name] != there[name]} == {"strategy", "workers"}
    assert (here["workers"], here["replicas"]) == (2, 2)

    # A worker that starts after the end has nothing to wait for.
    with Workers(2, *args, start=(1,)) as workers:
        assert workers.left(1)[1].code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        ("--model=mlp", "--jit_compile=on"),
        ("--model=cnn", "--jit_compile=on"),
        ("--model=cnn", "--jit_compile=off", "--precision=bfloat16"),
    ],
)
def test_two_workers_equal_two_devices_whatever_computes_the_gradients(how, tiny_dir, tmp_path):
    alone(*flags(tiny_dir, tmp_path / "devices", *how, "--epochs=2", "--virtual_devices=2"))
    with Workers(2, *flags(tiny_dir, tmp_path / "workers", *how, "--epochs=2")) as workers:
        assert {left.code for left in workers.left().values()} == {0}
    devices, workers = (runs.metrics(tmp_path / name) for name in ("devices", "workers"))
    assert workers["weights_sha256"] == devices["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 20), (signal.SIGTERM, 10)])
def test_signals_at_random_moments_to_random_workers_change_nothing(
    number: signal.Signals, times: int, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A worker that leaves is started again, as by a Job. Alone, three take about a minute."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    rng, directory, epochs, sent = random.Random(seed), tmp_path / "run", 400, 0
    args = flags(tiny_dir, directory, f"--epochs={epochs}")
    alone(*args, f"--model_dir={tmp_path / 'undisturbed'}", "--virtual_devices=3")
    expected = runs.metrics(tmp_path / "undisturbed")

    def next_moment() -> Callable[[], bool]:
        """Every other is while it trains, spread over the run, the others at any time."""
        step = max(steps(directory), default=0)
        if step < 0.8 * expected["steps"] and sent % 2:
            beyond = step + rng.uniform(0, 2 * (0.8 * expected["steps"] - step) / (times - sent))
            return lambda: max(steps(directory), default=0) > beyond
        due = time.monotonic() + rng.uniform(0, 8 if step < 0.8 * expected["steps"] else 4)
        return lambda: time.monotonic() > due

    with Workers(3, *args) as workers:
        deadline, moment = time.monotonic() + 60 * 60, next_moment()
        while workers.running:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            for index, process in list(workers.running.items()):
                if process.poll() is not None:
                    left = workers.left(index)[index]
                    assert left.code in (0, 138, -number, 128 + number), left
                    if left.code:
                        workers.start(index)
            if sent < times and moment():
                workers.send(rng.choice(list(workers.running)), number)
                sent += 1
                moment = next_moment() if sent < times else moment
    assert sent == times
    assert runs.metrics(directory)["weights_sha256"] == expected["weights_sha256"]
    assert len(runs.history(directory)) == epochs
    assert temporary_files(directory) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_that_is_killed_or_frozen_is_named_by_all_others(number, lost, tiny_dir, tmp_path):
    directory = tmp_path / "run"
    with Workers(3, *flags(tiny_dir, directory, ENDLESS)) as workers:
        trains(directory)
        workers.send(lost, number)
        lost_named(workers, lost, *{0, 1, 2} - {lost})
        if number == signal.SIGSTOP:
            workers.send(lost, signal.SIGCONT)
            assert workers.left(lost, within_s=30)[lost].code == 138


@pytest.mark.slow
def test_workers_that_differ_all_refuse_and_name_what_differs(tiny_dir, tmp_path) -> None:
    directory, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(runs.ROOT / "trainer", other / "trainer")
    with (other / "trainer" / "loop.py").open("a") as file:
        file.write("# edited\n")
    images, *rest = runs.tiny_arrays()
    write(other / "data", gz_files((255 - images, *rest)))
    args = flags(tiny_dir, directory)
    with Workers(3, *args, start=(0, 2)) as workers:
        workers.start(1, f"--data_dir={other / 'data'}", "--seed=2", cwd=other)
        for left in workers.left().values():
            assert left.code == 2
            for name in ("--seed is 2", "data is", "code is"):
                assert name in left.err
            assert f"on worker 1 ({workers.addresses[1]})" in left.err
            assert left.err.count("\n") == 1
    assert not directory.exists()


@pytest.mark.slow
def test_a_run_goes_on_with_3_then_2_then_1_then_3_workers(tiny_dir, tmp_path) -> None:
    """Also over a damaged checkpoint. All see the same examples, so the losses stay the same."""
    directory, plain = tmp_path / "run", tmp_path / "plain"
    alone(*flags(tiny_dir, plain, "--epochs=40"))
    args = flags(tiny_dir, directory, "--epochs=40")
    saved = 0
    for count in (3, 2, 1):
        with Workers(count, *args, "--checkpoint_every=1") as workers:
            trains(directory, saved + 20)
            workers.send(count - 1, signal.SIGINT)
            codes = [left.code for left in workers.left().values()]
            assert codes == [143] * (count - 1) + [130]
        saved = steps(directory)[0]
        damage(directory, saved)
    with Workers(3, *args) as workers:
        ended = workers.left()
    assert [left.code for left in ended.values()] == [0, 0, 0]
    assert "unreadable checkpoint passed over" in ended[0].err
    assert f"resumed at step {saved - 1:,}" in ended[0].out
    found, expected = runs.metrics(directory), runs.metrics(plain)
    assert (found["workers"], found["steps"]) == (3, expected["steps"])
    for row, other in zip(runs.history(directory), runs.history(plain), strict=True):
        assert row["step"] == other["step"]
        # Sums in another order: a wrong example moves a loss by percents.
        assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_chief_that_dies_while_it_exports_finishes_alone_what_it_can_read(
    damaged: bool, undisturbed: pathlib.Path, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Otherwise all train the end again, as alone it would end with other weights."""
    directory = tmp_path / "run"
    with Workers(2, *flags(tiny_dir, directory, "--epochs=3")) as workers:
        exports = directory / "saved_model"
        wait_until(lambda: list(exports.glob(".partial-*")), "the chief exports")
        workers.send(0, signal.SIGKILL)
        lost_named(workers, 0, 1)
        workers.left(0)
        assert not (directory / "metrics.json").exists()
        if damaged:
            damage(directory, steps(directory)[0])
        workers.start(1)  # it waits for the chief, or for the end
        workers.start(0)
        ended = workers.left()
    assert {left.code for left in ended.values()} == {0}
    assert ("unreadable checkpoint passed over" in ended[0].err) == damaged
    found = runs.metrics(directory)
    assert found["weights_sha256"] == runs.metrics(undisturbed)["weights_sha256"]
    assert (found["workers"], found["strategy"]) == (2, "multi_worker")
    assert temporary_files(directory) == []


@pytest.mark.slow
def test_workers_that_would_compute_in_another_precision_do_not_begin(tiny_dir, tmp_path) -> None:
    """The processor decides it, and the second worker is told that it has another one."""
    told = "fpu" if describe([]).bfloat16 else "fpu avx512_bf16"
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {told}\n")
    args = flags(tiny_dir, tmp_path / "run", "--model=cnn", "--precision=auto")
    with Workers(2, *args, start=(0,)) as workers:
        start_where(f"mount --bind {cpuinfo} /proc/cpuinfo", workers, 1)
        ended = workers.left()
    for left in ended.values():
        assert left.code == 2
        assert re.search(r"--precision is .*float\S+.*float.*\n\Z", left.err)


@pytest.mark.slow
def test_only_the_chief_writes(tiny_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The other worker has the shared directory mounted read-only."""
    directory = tmp_path / "run"
    directory.mkdir()
    mount = f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory}"
    with Workers(2, *flags(tiny_dir, directory, "--epochs=2"), start=(0,)) as workers:
        start_where(f"{mount} && ! touch {directory}/x 2>&-", workers, 1)
        ended = workers.left()
    assert [left.code for left in ended.values()] == [0, 0], ended


# Two hosts, 10.213.7.1 and 10.213.7.2, as network namespaces with a cable between them.
NETWORK = """
for host in 1 2; do ip netns add trainer-$host && ip -n trainer-$host link set lo up; done
ip -n trainer-1 link add cable type veth peer name cable netns trainer-2
for host in 1 2; do
  ip -n trainer-$host addr add 10.213.7.$host/24 dev cable && ip -n trainer-$host link set cable up
done
"""


@pytest.mark.slow
def test_workers_that_are_cut_off_from_each_other_leave(tiny_dir, tmp_path) -> None:
    def run(script: str) -> bool:
        return not subprocess.run(
            ["sh", "-ec", script], check=False, capture_output=True
        ).returncode

    directory = tmp_path / "run"
    args = flags(tiny_dir, directory, ENDLESS)
    try:
        if not run(NETWORK):
            pytest.skip("needs Linux, root and iproute2 to make hosts with a link")
        with Workers(2, *args, start=()) as workers:
            workers.addresses = ["10.213.7.1:2222", "10.213.7.2:2222"]
            for index in (0, 1):
                workers.start(index, within=("ip", "netns", "exec", f"trainer-{index + 1}"))
            trains(directory)
            # All packets are dropped from now on; no end of a connection gets to hear of it.
            for host in (1, 2):
                assert run(f"ip netns exec trainer-{host} tc qdisc add dev cable root blackhole")
            for index, left in workers.left(within_s=30).items():
                assert left.code == 138
                assert f"worker {1 - index} ({workers.addresses[1 - index]}) was lost" in left.err
    finally:
        for host in (1, 2):
            run(f"ip netns del trainer-{host}")
