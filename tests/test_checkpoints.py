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
DATA, INDEX = ".data-00000-of-00001", ".index"


def progress(step: int) -> Progress:
    return Progress(step, 1.5, 100, 1.25, 0.1, 1 / 3, [ROW])


class Job:
    """What training changes, and the checkpoints of a run at most 100 steps long."""

    def __init__(
        self,
        run: pathlib.Path | str,
        *,
        is_chief: bool = True,
        data: str = "mine",
        size: int = 50,
        **flags: object,
    ):
        config = Config(model_dir=str(run), **flags).resolved()
        files.write_text(files.join(str(run), "config.json"), "{}")
        plan = types.SimpleNamespace(config=config, total_steps=100)
        self.variables = [tf.Variable(tf.zeros((size, size))) for _ in range(3)]
        items = {"model": self.variables[:1], "momentum": self.variables[1:]}
        self.checkpoints = Checkpoints(plan, items, {"images": data}, is_chief=is_chief)
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
    expected = {f"step-{step}{ending}" for step in steps for ending in (DATA, INDEX)}
    assert set(os.listdir(place)) == expected | {"checkpoint"}
    assert tf.train.latest_checkpoint(str(place)) == str(place / f"step-{steps[-1]}")
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(place), max_to_keep=9)
    assert manager.checkpoints == [str(place / f"step-{step}") for step in steps]


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[15_000] ^= 1
    path.write_bytes(content)


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def lose(path: pathlib.Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["run", "exp[lr=0.1]", "back\\slash", "[*]?"])
@pytest.mark.parametrize("local", [True, False])
def test_everything_comes_back_to_the_last_bit(tmp_path, name, local) -> None:
    """Whatever the directory is called: TensorFlow's reader takes a path for a pattern."""
    where = files.join(str(tmp_path) if local else "ram://checkpoints-test", name)
    assert Job(where).restored() is None
    Job(where).save(10, 20)
    job = Job(where)
    assert (job.restored(), job.warnings) == (20, [])
    assert last_is_readable(where)


def test_what_is_saved_is_of_the_moment_and_seen_only_when_all_of_it_is_written(run, monkeypatch):
    """The files are written later: here only once everything has changed."""
    job, now, changed, seen = Job(run), progress(0), threading.Event(), []
    write = tf.train.Checkpoint.write

    def write_late(*args: object) -> None:
        changed.wait(60)
        write(*args)
        seen.extend(run.glob("checkpoints/step-*"))

    monkeypatch.setattr(tf.train.Checkpoint, "write", write_late)
    for i, variable in enumerate(job.variables):
        variable.assign_add(tf.fill((50, 50), float(i)))
    job.checkpoints.save(now)
    for variable in job.variables:
        variable.assign_add(tf.ones_like(variable))
    now.history.append(ROW)
    changed.set()
    job.checkpoints.wait()
    assert seen == []
    assert Job(run).restored() == 0


@pytest.mark.parametrize("then", ["wait", "save"])
def test_what_goes_wrong_while_it_is_written_is_told_once(run: pathlib.Path, then: str) -> None:
    checkpoints = Job(run).checkpoints
    (run / "checkpoints").write_text("a file where the directory should be")
    checkpoints.save(progress(10))
    with pytest.raises(FileExistsError):
        checkpoints.wait() if then == "wait" else checkpoints.save(progress(20))
    checkpoints.wait()


def test_only_the_newest_are_kept_and_tensorflow_finds_them_also_when_the_run_was_moved(run):
    Job(run, keep_checkpoints=2).save(10, 20)
    Job(run, keep_checkpoints=2).save(30)
    assert_holds(run.rename(run.with_name("moved")), 20, 30)


def test_what_a_process_that_died_did_not_drop_is_dropped_and_nothing_else(run) -> None:
    """It died before it wrote the list, or between the two files of a checkpoint."""
    Job(run).save(10, 20, 30)
    (run / "checkpoints" / "checkpoint").unlink()
    (run / "checkpoints" / "step-10.index").unlink()
    others = [run / "checkpoints" / name for name in ("step-10.data-00000-of-00001.bak", "x.index")]
    for path in others:
        path.write_bytes(b"mine")
    assert Job(run, keep_checkpoints=1).restored() == 30
    for path in others:
        path.unlink()
    assert_holds(run, 30)


@pytest.mark.parametrize(("module", "name"), [(files, "remove"), (os, "replace")])
def test_a_process_that_dies_between_two_files_leaves_no_index_without_data(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, name: str
) -> None:
    Job(run).save(10, 20)
    function = getattr(module, name)

    def die(*args: str) -> None:
        function(*args)
        raise InterruptedError

    monkeypatch.setattr(module, name, die)
    with pytest.raises(InterruptedError):
        Job(run, keep_checkpoints=2).save(30)
    found = [path.name for path in run.glob("checkpoints/step-*")]
    assert found.count(f"step-10{INDEX}") == (module is os)
    assert {path.removesuffix(INDEX) + DATA for path in found if path.endswith(INDEX)} <= {*found}


@pytest.mark.parametrize(
    ("damage", "name"), [(flip, DATA), (cut, DATA), (lose, DATA), (cut, INDEX)]
)
def test_one_that_cannot_be_read_is_told_and_passed_over_and_stays(run, damage, name) -> None:
    """It may be whole, and only this process cannot read it: the next one tries it again."""
    Job(run).save(10, 20)
    assert last_is_readable(str(run))
    path = run / "checkpoints" / f"step-20{name}"
    whole = path.read_bytes()
    damage(path)
    assert not last_is_readable(str(run))
    job = Job(run, keep_checkpoints=2)
    assert job.restored() == 10
    assert str(run / "checkpoints" / "step-20") in job.warnings[0]
    job.save(13, 16)
    state = tf.train.get_checkpoint_state(str(run / "checkpoints"))
    assert [pathlib.Path(each).name for each in state.all_model_checkpoint_paths] == [
        *("step-13", "step-16")
    ]
    path.write_bytes(whole)
    assert Job(run, keep_checkpoints=1).restored() == 20
    assert_holds(run, 20)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_if_all_are_damaged_the_run_begins_again_unless_it_must_resume(run, resume) -> None:
    Job(run).save(10, 20)
    for path in run.glob(f"checkpoints/*{DATA}"):
        cut(path)
    job, refused = Job(run, resume=resume), pytest.raises(UsageError, match="none of the 2")
    with refused if resume == "must" else contextlib.nullcontext():
        assert job.restored() is None
    assert len(job.warnings) == 2


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"seed": 7}, "--seed=7"),
        ({"model": "cnn", "size": 9}, "--model=cnn"),
        ({"data": "x"}, "im"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run, flags, named) -> None:
    """As when `config.json` was lost or replaced; more epochs make it no other run."""
    Job(run).save(10)
    with pytest.raises(UsageError, match=f"another run: .*{named}"):
        Job(run, **flags).restored()
    assert Job(run, epochs=9).restored() == 10


def test_a_checkpoint_of_another_network_is_damage(run: pathlib.Path) -> None:
    Job(run).save(10)
    assert Job(run, size=9).restored() is None


def test_a_damaged_list_of_checkpoints_hides_none(run: pathlib.Path) -> None:
    Job(run).save(10, 20)
    (run / "checkpoints" / "checkpoint").write_bytes(b"\xff\xfe\x00")
    assert Job(run).restored() == 20


def test_workers_restore_what_the_chief_did_and_change_nothing(run: pathlib.Path) -> None:
    Job(run).save(10, 20)
    before = sorted(os.listdir(run / "checkpoints"))
    worker = Job(run, is_chief=False, keep_checkpoints=1)
    assert worker.restored(lambda step: 10) == 10
    assert Job(run, is_chief=False).restored(lambda step: -1) is None  # the chief begins anew
    worker.save(30)
    assert sorted(os.listdir(run / "checkpoints")) == before
    cut(run / "checkpoints" / f"step-10{DATA}")
    with pytest.raises(ClusterError, match="step-10"):
        worker.restored(lambda step: 10)
    (run / "config.json").unlink()
    with pytest.raises(UsageError, match="share"):  # it is another directory than the chief's
        worker.restored(lambda step: 10)
