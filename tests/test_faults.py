"""The everyday part of `python -m tests.faults`: a disk that fills, rot, overflow, secrets."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import re
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import runs
import tensorflow as tf
from faults import bench, rot, table
from training import config, trainer

from trainer.run import checkpoints, files

FLIPS = 60

# What services give a process to authenticate with, and none of a run's business.
SECRETS = {
    name: f"canary-{number}-5f1c09"
    for number, name in enumerate(
        ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PASSWORD", "SECRET", "WANDB_API_KEY")
    )
}


def test_a_run_whose_disk_is_full_says_so_and_ends_as_if_nothing_had_happened(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A limit to the size of a file stands in for the disk; the environment is bare besides."""
    directory = tmp_path / "run"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", "--epochs=2", "--jit_compile=off")
    process = runs.task(
        *flags,
        f"--model_dir={directory}",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(runs.ROOT), "LC_ALL": "C"},
        # A checkpoint has 1.2 MB.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000)),
    )
    err = process.communicate()[1]
    assert process.returncode == 1
    assert err == (
        f"error: cannot write in {directory}: File too large; mend that, and the same command goes"
        " on from the last checkpoint\n"
    )
    assert bench.unsound(directory) == []
    server(*flags, f"--model_dir={directory}")
    server(*flags, f"--model_dir={tmp_path}/undisturbed")
    assert runs.result(directory) == runs.result(tmp_path / "undisturbed")
    names = [path.name for path in directory.rglob("*")]
    assert not list(filter(bench.LEFTOVER.search, names))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_errors_of_a_directory_are_told_and_no_others(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="space") as full, open("/dev/full", "wb") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(OSError, match="No such") as missing:
        (tmp_path / "none" / "file").write_text("")
    with pytest.raises(tf.errors.OpError) as unread:
        tf.io.gfile.GFile(f"{tmp_path}/none/file").read()
    for error in (full, missing, unread):
        told = files.failure(error.value, str(tmp_path))
        assert re.match(f"cannot write in {tmp_path}: No s[a-z ]*; mend that", str(told))
        assert told.exit_code == 1
    elsewhere = (missing.value, unread.value, OSError(errno.ECONNREFUSED, "refused"))
    assert [files.failure(error, "/another") for error in elsewhere] == [None] * 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, tf.Variable]]:
    """Checkpoints of the steps 1 and 2, and what is in them."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    items = {"model": tf.Variable(tf.range(300.0)), "velocity": tf.Variable(tf.ones((4, 4)))}
    kept = checkpoints.Checkpoints(str(directory), items, 3)
    for step in (1, 2):
        kept.save(checkpoints.Progress(step, history=[{"epoch": step, "train_loss": 0.1 + 0.2}]))
    kept.wait()
    return directory, items


@pytest.mark.parametrize("file", ["data-00000-of-00001", "index"])
@pytest.mark.parametrize("damage", rot.DAMAGE)
def test_whatever_happens_to_a_file_of_a_checkpoint_what_comes_back_was_saved(
    saved: tuple[pathlib.Path, dict[str, tf.Variable]], file: str, damage: str
) -> None:
    """Wherever the bit is that flips: the checkpoint, or the one before it, comes back whole."""
    directory, items = saved
    seed = time.time_ns() % 100_000
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = directory / f"step-2.{file}"
    sound = path.read_bytes()
    outcomes = set()
    try:
        for _ in range(FLIPS if "flipped" in damage else 5):
            rot.DAMAGE[damage](path, chance)
            found = {name: tf.Variable(tf.zeros_like(item)) for name, item in items.items()}
            progress, damaged = checkpoints.Checkpoints(str(directory), found, 3).restore()
            path.write_bytes(sound)
            outcomes.add(progress.step)
            lost = 0 if (file, damage) == ("index", "missing:") else 1  # then there is none
            assert len(damaged) == (lost if progress.step == 1 else 0)
            assert progress.history == [{"epoch": progress.step, "train_loss": 0.1 + 0.2}]
            for name, item in items.items():
                np.testing.assert_array_equal(found[name], item)
    finally:
        path.write_bytes(sound)
    assert 1 in outcomes  # the damage is seen at all


def test_an_overflow_that_no_loss_scale_mends_stops_the_run() -> None:
    """In float16, a finite loss whose gradient is beyond 65504 even where the scale is 1."""
    model = trainer(config(batch_size=1, label_smoothing=0.0), precision="float16")
    hidden, logits = (layer for layer in model.model.layers if layer.weights)
    hidden.kernel.assign(tf.zeros((784, 128)))
    hidden.bias.assign(tf.one_hot(0, 128) * 0.5)
    logits.kernel.assign(tf.one_hot(0, 128)[:, None] * ([6e4] * 5 + [-6e4] * 5))
    superbatch = tf.ones((4, 1, 28, 28), tf.uint8), tf.fill((4, 1), 7)
    model.optimizer.loss_scale.assign(4.0)
    before = model.weights_sha256()
    result = model.run(superbatch, 0, 0, 4)
    assert np.isfinite(result.loss)
    assert result.failed_step == 2  # with the scales of 4, 2 and, here, 1
    assert model.weights_sha256() == before


def test_no_environment_variable_gets_into_what_a_run_says_or_leaves(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={directory}", "--epochs=1")
    answer = server(*flags, **SECRETS)
    files = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert len(files) > 10
    said = {"output": (answer.out + answer.err).encode(), **files}
    for secret in SECRETS.values():
        assert [where for where, content in said.items() if secret.encode() in content] == []


def test_no_file_takes_the_place_of_a_standard_stream_that_was_closed(
    tmp_path: pathlib.Path,
) -> None:
    """Else what TensorFlow logs would go into it."""
    program = (
        "import os, sys; from trainer.process.startup import fill_standard_streams;"
        "fill_standard_streams(); print('unseen'); print('unseen', file=sys.stderr);"
        "os._exit(open(os.devnull).fileno())"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=runs.ROOT,
        preexec_fn=lambda: [os.close(number) for number in range(3)],
    )
    assert started.wait() == 3
    wrong = runs.task("--epochs=0", preexec_fn=lambda: [os.close(number) for number in range(3)])
    assert (wrong.communicate(), wrong.returncode) == (("", ""), 2)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")
def test_a_run_of_200_epochs_takes_no_more_of_anything_as_it_goes_on(
    tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={directory}", "--epochs=200")
    process = runs.task(*flags, "--keep_checkpoints=2")
    memory, handles = {}, {}
    while process.poll() is None:
        epoch = bench.steps_saved(directory) // runs.STEPS_AN_EPOCH
        if epoch in range(20, 200, 20) and epoch not in memory:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            memory[epoch] = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
            handles[epoch] = len(os.listdir(f"/proc/{process.pid}/fd"))
            names = os.listdir(directory / "checkpoints")
            # While a third is written, before the oldest goes.
            assert sum(name.endswith(".index") for name in names) <= 3
        time.sleep(0.002)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    print({epoch: f"{memory[epoch]:.0f} MB, {handles[epoch]} handles" for epoch in memory})
    assert len(memory) >= 5
    first, last = min(memory), max(memory)
    assert memory[last] - memory[first] < 40  # allocators keep some; 180 epochs' leak would be more
    assert max(handles.values()) - min(handles.values()) <= 3  # a file that is being written
    names = os.listdir(directory / "checkpoints")
    assert sorted(name for name in names if name.endswith(".index")) == [
        "step-1990.index",
        "step-2000.index",
    ]


def test_the_table_keeps_other_rows_and_replaces_those_of_the_same_fault(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "document.md"
    path.write_text(f"# Title\n{table.BEGIN}{table.END}\nend\n")
    table.write([table.Row("one", 1, "a"), table.Row("two", 2, "b | c")], "first", path)
    table.write([table.Row("one", 3, "", ("it broke",))], "second", path)
    lines = path.read_text().splitlines()
    assert lines[4:6] == [
        "| one | 3 | BROKEN: it broke | `second` |",
        "| two | 2 | b \\| c | `first` |",
    ]
    assert (lines[0], lines[-1]) == ("# Title", "end")
