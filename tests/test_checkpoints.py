"""Checkpoints: everything that training changes comes back, from the newest one that is whole."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import types
from collections.abc import Callable

import pytest
import tensorflow as tf

from trainer.config import Config
from trainer.errors import ClusterError, UsageError
from trainer.run import files
from trainer.run.checkpoints import Checkpoints, Progress, last_is_readable

ROW = {"epoch": 1, "train_loss": 0.1 + 0.2, "validation_loss": None}
ENDINGS = (".data-00000-of-00001", ".index")


def progress(step: int) -> Progress:
    return Progress(step, 1.5, 100, 1.25, 0.1, 1 / 3, [ROW])


class Job:
    """What training changes, and the checkpoints of a run at most 100 steps long."""

    def __init__(self, run: pathlib.Path | str, *, is_chief: bool = True, **flags: object):
        config = Config(model_dir=str(run), **flags)
        plan = types.SimpleNamespace(config=config, total_steps=100)
        self.variables = [tf.Variable(tf.zeros((50, 50))) for _ in range(3)]
        items = {"model": self.variables[:1], "momentum": self.variables[1:]}
        self.checkpoints = Checkpoints(plan, items, is_chief=is_chief)
        self.warnings: list[str] = []

    def save(self, *steps: int) -> None:
        """Saves what training changes as it might be at some steps: variable i is step + i."""
        for step in steps:
            for i, variable in enumerate(self.variables):
                variable.assign(tf.fill((50, 50), float(step + i)))
            self.checkpoints.save(progress(step))
        self.checkpoints.wait()

    def restored(self, from_chief: Callable[[int], int] = lambda step: step) -> int | None:
        """Returns the step that is restored, after a check of all that comes with it."""
        console = types.SimpleNamespace(warn=self.warnings.append)
        found, step = self.checkpoints.restore(from_chief, console)
        assert found == (Progress() if step is None else progress(step))
        for i, variable in enumerate(self.variables):
            tf.debugging.assert_equal(variable, 0.0 if step is None else float(step + i))
        return step


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "run"


def assert_holds(run: pathlib.Path, *steps: int) -> None:
    """Asserts that a run has the checkpoints of these steps, for TensorFlow's own tools too."""
    place = run / "checkpoints"
    expected = {f"step-{step}{ending}" for step in steps for ending in ENDINGS}
    assert set(os.listdir(place)) == expected | {"checkpoint"}
    assert tf.train.latest_checkpoint(str(place)) == str(place / f"step-{steps[-1]}")
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(place), max_to_keep=9)
    assert manager.checkpoints == [str(place / f"step-{step}") for step in steps]


def cut(run: pathlib.Path, *steps: int) -> None:
    for step in steps:
        path = run / "checkpoints" / f"step-{step}{ENDINGS[0]}"
        path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("place", ["local", "ram"])
def test_everything_comes_back_to_the_last_bit(run: pathlib.Path, place: str) -> None:
    where = run if place == "local" else "ram://checkpoints-test/run"
    assert Job(where).restored() is None
    Job(where).save(10, 20)
    assert Job(where).restored() == 20


def test_what_is_saved_is_of_the_moment_however_training_goes_on(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written later: here only once everything has changed."""
    job, now, changed = Job(run), progress(0), threading.Event()
    write = tf.train.Checkpoint.write
    monkeypatch.setattr(
        *(tf.train.Checkpoint, "write"),
        lambda *args, **names: (changed.wait(60), write(*args, **names)),
    )
    for i, variable in enumerate(job.variables):
        variable.assign_add(tf.fill((50, 50), float(i)))
    job.checkpoints.save(now)
    for variable in job.variables:
        variable.assign_add(tf.ones_like(variable))
    now.history.append(ROW)
    changed.set()
    job.checkpoints.wait()
    assert Job(run).restored() == 0


@pytest.mark.parametrize("then", ["wait", "save"])
def test_what_goes_wrong_while_it_is_written_is_told_once(run: pathlib.Path, then: str) -> None:
    run.mkdir()
    (run / "checkpoints").write_text("a file where the directory should be")
    checkpoints = Job(run).checkpoints
    checkpoints.save(progress(10))
    with pytest.raises(FileExistsError):
        checkpoints.wait() if then == "wait" else checkpoints.save(progress(20))
    checkpoints.wait()


def test_only_the_newest_are_kept_and_tensorflow_finds_them_also_when_the_run_was_moved(
    run: pathlib.Path,
) -> None:
    Job(run, keep_checkpoints=2).save(10, 20)
    Job(run, keep_checkpoints=2).save(30)
    assert_holds(run.rename(run.with_name("moved")), 20, 30)


def test_what_a_process_that_died_did_not_drop_is_dropped(run: pathlib.Path) -> None:
    """It died before it wrote the list, or between the two files of a checkpoint."""
    Job(run).save(10, 20, 30)
    (run / "checkpoints" / "checkpoint").unlink()
    (run / "checkpoints" / "step-10.index").unlink()
    assert Job(run, keep_checkpoints=1).restored() == 30
    assert_holds(run, 30)


def test_what_is_not_a_checkpoint_stays(run: pathlib.Path) -> None:
    Job(run).save(10)
    others = {"step-10.data-00000-of-00001.bak", "step-5.data-00000-of-00002", "step-x.index"}
    for name in others:
        (run / "checkpoints" / name).write_bytes(b"mine")
    Job(run, keep_checkpoints=1).save(20)
    assert others <= set(os.listdir(run / "checkpoints"))


def test_a_process_that_dies_while_dropping_leaves_no_index_without_data(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Job(run).save(10, 20)
    remove = files.remove

    def die(path: str) -> None:
        remove(path)
        raise InterruptedError

    monkeypatch.setattr(files, "remove", die)
    with pytest.raises(InterruptedError):
        Job(run, keep_checkpoints=2).save(30)
    assert (run / "checkpoints" / "step-10.data-00000-of-00001").exists()
    assert not (run / "checkpoints" / "step-10.index").exists()


def test_damaged_ones_are_told_and_passed_over_and_go_with_the_next(run: pathlib.Path) -> None:
    Job(run).save(10, 20, 30)
    (run / "checkpoints" / "step-30.index").write_bytes(b"")
    cut(run, 20)
    job = Job(run)
    assert job.restored() == 10
    for step, text in zip((30, 20), job.warnings, strict=True):
        assert str(run / "checkpoints" / f"step-{step}") in text
        assert "\n" not in text
    job.save(15)
    assert_holds(run, 10, 15)


def test_a_flipped_bit_is_damage(run: pathlib.Path) -> None:
    Job(run).save(10, 20)
    assert last_is_readable(str(run))
    path = run / "checkpoints" / "step-20.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[15_000] ^= 1
    path.write_bytes(content)
    assert not last_is_readable(str(run))
    assert Job(run).restored() == 10


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_if_all_are_damaged_the_run_begins_again_unless_it_must_resume(
    run: pathlib.Path, resume: str
) -> None:
    Job(run).save(10, 20)
    cut(run, 10, 20)
    job, refused = Job(run, resume=resume), pytest.raises(UsageError, match="none of the 2")
    with refused if resume == "must" else contextlib.nullcontext():
        assert job.restored() is None
    assert len(job.warnings) == 2


def test_a_checkpoint_of_another_model_is_damage(run: pathlib.Path) -> None:
    Job(run).save(10)
    job = Job(run)
    other = {"model": [tf.Variable(tf.zeros((3, 3)))], "momentum": [], "more": tf.Variable(1.0)}
    plan = types.SimpleNamespace(config=Config(model_dir=str(run)), total_steps=100)
    job.checkpoints = Checkpoints(plan, other, is_chief=True)
    assert job.restored() is None
    assert len(job.warnings) == 1


@pytest.mark.parametrize("content", [b"", b"nonsense {", b"\xff\xfe\x00"])
def test_a_damaged_list_of_checkpoints_hides_none(run: pathlib.Path, content: bytes) -> None:
    Job(run).save(10, 20)
    (run / "checkpoints" / "checkpoint").write_bytes(content)
    assert Job(run).restored() == 20


def test_a_checkpoint_that_can_be_seen_is_whole(run: pathlib.Path) -> None:
    """Whoever looks while it is written, which is what a kill would leave, finds all or nothing."""
    done, torn = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            for path in run.glob("checkpoints/step-*.index"):
                with contextlib.suppress(FileNotFoundError):  # it has been dropped meanwhile
                    if len(path.read_bytes()) < 48:  # the footer of such a table
                        torn.append(path.name)

    looking = threading.Thread(target=look)
    looking.start()
    Job(run).save(*range(1, 60))
    done.set()
    looking.join()
    assert torn == []


def test_workers_restore_what_the_chief_did_and_change_nothing(run: pathlib.Path) -> None:
    Job(run).save(10, 20)
    before = sorted(os.listdir(run / "checkpoints"))
    worker = Job(run, is_chief=False, keep_checkpoints=1)
    assert worker.restored(lambda step: 10) == 10
    worker.save(30)
    assert sorted(os.listdir(run / "checkpoints")) == before
    cut(run, 10)
    with pytest.raises(ClusterError, match="step-10"):
        worker.restored(lambda step: 10)
