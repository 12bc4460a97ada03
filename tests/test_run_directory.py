"""The directory of a run: what is recorded there decides who may go on with it."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from trainer import run_directory
from trainer.config import Config
from trainer.errors import UsageError
from trainer.run_directory import Recorded

SHA256 = {"train_images": "a", "train_labels": "b"}


def recorded(epochs: int = 5, finished: bool = True, **flags) -> Recorded:
    metrics = {"finished": finished, "epochs": epochs}
    config = Config(dataset="mnist", **flags).resolved().to_dict()
    return Recorded(config, {}, {"sha256": SHA256}, metrics)


def write(directory: pathlib.Path, record: Recorded) -> None:
    parts = {"config": record.config, "settled": record.settled, "data": record.data}
    run_directory.write_json(str(directory), "config.json", parts)
    run_directory.write_json(str(directory), "metrics.json", record.metrics)


def test_a_run_is_read_back_as_it_was_recorded(tmp_path: pathlib.Path) -> None:
    write(tmp_path, recorded())
    assert run_directory.read(str(tmp_path)) == recorded()


def test_no_directory_and_an_empty_one_hold_no_run(tmp_path: pathlib.Path) -> None:
    assert run_directory.read(str(tmp_path)) is None
    assert run_directory.open_for(Config(model_dir=str(tmp_path / "new"))) is None
    assert run_directory.open_for(Config(model_dir=str(tmp_path), resume="never")) is None
    assert os.listdir(tmp_path) == []


def test_a_run_has_finished_with_as_many_epochs_as_are_asked_for() -> None:
    assert recorded(epochs=5).finished(5)
    assert recorded(epochs=5).finished(3)
    assert not recorded(epochs=5).finished(6)
    assert not recorded(epochs=5, finished=False).finished(5)
    assert not Recorded({}, {}, {}, None).finished(1)


@pytest.mark.parametrize("flags", [{}, {"dataset": "mnist"}, {"epochs": 9}, {"resume": "must"}])
def test_the_same_run_goes_on(tmp_path: pathlib.Path, flags: dict[str, object]) -> None:
    write(tmp_path, recorded())
    assert run_directory.open_for(Config(model_dir=str(tmp_path), **flags)) == recorded()


def test_all_differences_are_told_at_once(tmp_path: pathlib.Path) -> None:
    write(tmp_path, recorded(seed=1, augment="none"))
    config = Config(model_dir=str(tmp_path), seed=2, augment="shift", epochs=7)
    with pytest.raises(UsageError) as caught:
        run_directory.open_for(config)
    assert "--seed=2 (the run has 1)" in str(caught.value)
    assert "--augment=shift (the run has none)" in str(caught.value)
    assert "--epochs" not in str(caught.value)


def test_other_data_is_another_run() -> None:
    config = Config(dataset="mnist", model_dir="here").resolved()
    run_directory.check_data(config, recorded(), SHA256)
    with pytest.raises(UsageError, match="train_labels differ"):
        run_directory.check_data(config, recorded(), SHA256 | {"train_labels": "c"})


def test_a_new_run_never_takes_the_name_of_another(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = set()
    for _ in range(3):
        path = run_directory.default_path("mnist", "mlp")
        os.makedirs(path)
        paths.add(path)
    assert len(paths) == 3
    assert all(re.fullmatch(r"runs/mnist-mlp-\d{8}-\d{6}(-\d)?", path) for path in paths)


def test_the_test_for_writing_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    run_directory.open_for(Config(model_dir=str(tmp_path / "a" / "b")))
    assert os.listdir(tmp_path) == []


def test_history_has_a_row_an_epoch_and_empty_fields_for_what_is_not_there(
    tmp_path: pathlib.Path,
) -> None:
    rows = [{"epoch": e, "train_loss": 1 / e, "validation_loss": None} for e in (1, 2)]
    run_directory.write_history(str(tmp_path), rows)
    text = (tmp_path / "history.csv").read_bytes()
    assert text == b"epoch,train_loss,validation_loss\n1,1.0,\n2,0.5,\n"


def test_checkpoints_are_found_by_their_files_newest_first(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    assert run_directory.checkpoint_steps(str(tmp_path)) == []
    for name in ("step-9.index", "step-100.index", "step-7.data-00000-of-00001", "checkpoint"):
        (directory / name).touch()
    assert run_directory.checkpoint_steps(str(tmp_path)) == [100, 9]
