"""Checkpoints: everything that training changes comes back, from the newest one that is whole."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading

import numpy as np
import pytest
import tensorflow as tf

from trainer.run import files
from trainer.run.checkpoints import Checkpoints, Progress, last_is_readable

ROW = {"epoch": 1, "train_loss": 0.1 + 0.2, "validation_loss": None}


def progress(step: int) -> Progress:
    return Progress(step, 1.5, 100, 1.25, 0.1, 1 / 3, [ROW])


def items() -> dict[str, object]:
    variables = [tf.Variable(tf.zeros((50, 50))) for _ in range(3)]
    return {"model": variables[:1], "momentum": variables[1:]}


def values(found: dict[str, object]) -> list[float]:
    variables = [*found["model"], *found["momentum"]]
    assert all(len(np.unique(variable)) == 1 for variable in variables)
    return [float(variable[0, 0]) for variable in variables]


def checkpoints_of(
    place: pathlib.Path | str, kept: dict[str, object], keep: int = 3
) -> Checkpoints:
    """The checkpoints in `place`, the directory `checkpoints` of a run."""
    return Checkpoints(str(place).removesuffix("/checkpoints"), kept, keep=keep)


def save(directory: pathlib.Path | str, steps: list[int], keep: int = 3) -> None:
    """Saves what training changes as it might be at some steps: variable i is step + i."""
    kept = items()
    checkpoints = checkpoints_of(directory, kept, keep)
    for step in steps:
        for i, variable in enumerate([*kept["model"], *kept["momentum"]]):
            variable.assign(tf.fill((50, 50), float(step + i)))
        checkpoints.save(progress(step))
    checkpoints.wait()


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "run" / "checkpoints"


def test_everything_comes_back_to_the_last_bit(place: pathlib.Path) -> None:
    save(place, [10, 20])
    found = items()
    restored, damaged = checkpoints_of(place, found).restore()
    assert (restored, damaged) == (progress(20), [])
    assert values(found) == [20, 21, 22]


def test_what_is_saved_is_of_the_moment_however_training_goes_on(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written later: here only once everything has changed."""
    kept, now, changed = items(), progress(10), threading.Event()
    checkpoints = checkpoints_of(place, kept)
    write = tf.train.Checkpoint.write
    monkeypatch.setattr(
        *(tf.train.Checkpoint, "write"),
        lambda *args, **names: (changed.wait(60), write(*args, **names)),
    )
    checkpoints.save(now)
    for variable in [*kept["model"], *kept["momentum"]]:
        variable.assign_add(tf.ones_like(variable))
    now.step = 11
    now.history.append(ROW)
    changed.set()
    checkpoints.wait()
    found = items()
    assert checkpoints_of(place, found).restore() == (progress(10), [])
    assert values(found) == [0, 0, 0]


@pytest.mark.parametrize("then", ["wait", "save"])
def test_what_goes_wrong_while_it_is_written_is_told_once(
    tmp_path: pathlib.Path, then: str
) -> None:
    (tmp_path / "run").mkdir()
    checkpoints = checkpoints_of(tmp_path / "run" / "checkpoints", items())
    (tmp_path / "run" / "checkpoints").write_text("a file where the directory should be")
    checkpoints.save(progress(10))
    with pytest.raises(FileExistsError):
        checkpoints.wait() if then == "wait" else checkpoints.save(progress(20))
    checkpoints.wait()


def test_without_a_checkpoint_nothing_comes_back(place: pathlib.Path) -> None:
    assert checkpoints_of(place, items()).restore() == (None, [])


def test_only_the_newest_are_kept(place: pathlib.Path) -> None:
    save(place, [10, 20, 30, 40], keep=2)
    steps = {name for name in os.listdir(place) if name.endswith(".index")}
    assert steps == {"step-30.index", "step-40.index"}


@pytest.mark.parametrize("part", [".data-00000-of-00001", ".index"])
def test_what_a_process_that_died_while_dropping_left_is_dropped(
    place: pathlib.Path, part: str
) -> None:
    save(place, [10, 20], keep=2)
    (place / f"step-10{part}").unlink()
    save(place, [30, 40], keep=2)
    assert {name for name in os.listdir(place) if "step-10" in name} == set()


def test_what_is_not_a_checkpoint_stays(place: pathlib.Path) -> None:
    save(place, [10], keep=2)
    others = {"step-10.data-00000-of-00001.bak", "step-5.data-00000-of-00002", "step-x.index"}
    for name in others:
        (place / name).write_bytes(b"mine")
    save(place, [20, 30, 40], keep=2)
    assert others <= set(os.listdir(place))


def test_a_process_that_dies_while_dropping_leaves_no_index_without_data(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(place, [10, 20], keep=2)
    remove = files.remove

    def die(path: str) -> None:
        remove(path)
        raise InterruptedError

    monkeypatch.setattr(files, "remove", die)
    with pytest.raises(InterruptedError):
        save(place, [30], keep=2)
    assert (place / "step-10.data-00000-of-00001").exists()
    assert not (place / "step-10.index").exists()


def test_the_number_to_keep_holds_over_a_restart(place: pathlib.Path) -> None:
    save(place, [10, 20], keep=2)
    save(place, [30], keep=2)
    steps = {name for name in os.listdir(place) if name.endswith(".index")}
    assert steps == {"step-20.index", "step-30.index"}


def test_damaged_ones_are_told_and_passed_over(place: pathlib.Path) -> None:
    save(place, [10, 20, 30])
    for step in (20, 30):
        path = place / f"step-{step}.data-00000-of-00001"
        path.write_bytes(path.read_bytes()[:-1000])
    found = items()
    restored, damaged = checkpoints_of(place, found).restore()
    assert restored == progress(10)
    assert values(found) == [10, 11, 12]
    for step, text in zip((30, 20), damaged, strict=True):
        assert str(place / f"step-{step}") in text
    assert all("\n" not in text for text in damaged)


def test_a_flipped_bit_is_damage(place: pathlib.Path) -> None:
    save(place, [10, 20])
    assert last_is_readable(str(place.parent))
    path = place / "step-20.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[15_000] ^= 1
    path.write_bytes(content)
    assert not last_is_readable(str(place.parent))
    assert checkpoints_of(place, items()).restore()[0] == progress(10)


def test_only_the_chief_writes(place: pathlib.Path) -> None:
    worker = Checkpoints(str(place.parent), items(), keep=3, is_chief=False)
    worker.save(progress(10))
    worker.wait()
    assert not place.exists()


def test_if_all_are_damaged_the_variables_stay_as_they_are(place: pathlib.Path) -> None:
    save(place, [10, 20])
    for path in place.glob("*.data-*"):
        path.write_bytes(path.read_bytes()[:-1000])
    found = items()
    restored, damaged = checkpoints_of(place, found).restore()
    assert (restored, len(damaged)) == (None, 2)
    assert values(found) == [0, 0, 0]


def test_a_checkpoint_of_another_model_is_damage(place: pathlib.Path) -> None:
    save(place, [10])
    other = {"model": [tf.Variable(tf.zeros((3, 3)))], "momentum": [], "more": tf.Variable(1.0)}
    restored, damaged = checkpoints_of(place, other).restore()
    assert (restored, len(damaged)) == (None, 1)


@pytest.mark.parametrize("content", [b"", b"nonsense {", b"\xff\xfe\x00"])
def test_a_damaged_list_of_checkpoints_hides_none(place: pathlib.Path, content: bytes) -> None:
    save(place, [10, 20])
    (place / "checkpoint").write_bytes(content)
    found = items()
    assert checkpoints_of(place, found).restore() == (progress(20), [])
    assert values(found) == [20, 21, 22]


def test_tensorflow_finds_the_newest_also_when_the_directory_was_moved(
    place: pathlib.Path,
) -> None:
    save(place, [10, 20, 30], keep=2)
    moved = place.rename(place.with_name("moved"))
    assert tf.train.latest_checkpoint(str(moved)) == str(moved / "step-30")
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(moved), max_to_keep=2)
    assert manager.checkpoints == [str(moved / "step-20"), str(moved / "step-30")]


def test_a_checkpoint_that_can_be_seen_is_whole(place: pathlib.Path) -> None:
    """Whoever looks while it is written, which is what a kill would leave, finds all or nothing."""
    done, torn = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            for path in place.glob("step-*.index"):
                with contextlib.suppress(FileNotFoundError):  # it has been dropped meanwhile
                    if len(path.read_bytes()) < 48:  # the footer of such a table
                        torn.append(path.name)

    looking = threading.Thread(target=look)
    looking.start()
    save(place, list(range(1, 60)))
    done.set()
    looking.join()
    assert torn == []


def test_what_a_process_did_not_come_to_drop_is_dropped_at_the_end(place: pathlib.Path) -> None:
    save(place, [10, 20, 30])
    (place / "checkpoint").unlink()
    checkpoints_of(place, items(), 2).tidy(30)
    names = {f"step-{step}{end}" for step in (20, 30) for end in (".index", ".data-00000-of-00001")}
    assert set(os.listdir(place)) == names | {"checkpoint"}
    assert tf.train.latest_checkpoint(str(place)) == str(place / "step-30")


def test_a_damaged_checkpoint_that_was_passed_over_goes_with_the_next(place: pathlib.Path) -> None:
    save(place, [10, 20, 30])
    (place / "step-30.index").write_bytes(b"")
    kept = checkpoints_of(place, items())
    assert kept.restore()[0] == progress(20)
    kept.save(progress(25))
    kept.wait()
    names = {
        f"step-{step}{end}" for step in (10, 20, 25) for end in (".index", ".data-00000-of-00001")
    }
    assert set(os.listdir(place)) == names | {"checkpoint"}


def test_a_worker_restores_what_the_chief_did(place: pathlib.Path) -> None:
    save(place, [10, 20])
    found = items()
    restored, _ = checkpoints_of(place, found).restore(lambda step: 10)
    assert restored == progress(10)
    assert values(found) == [10, 11, 12]


def test_any_file_system_will_do() -> None:
    place = "ram://checkpoints-test/run/checkpoints"
    save(place, [10, 20])
    found = items()
    assert checkpoints_of(place, found).restore() == (progress(20), [])
