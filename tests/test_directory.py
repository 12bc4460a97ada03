"""The directory of a run: what is recorded there decides who may go on with it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tempfile

import pytest

from trainer.config import Config
from trainer.errors import StorageError, UsageError
from trainer.run import directory as run_directory
from trainer.run import files
from trainer.run.directory import State, check_path, examine, read

SHA256 = {"train_images": "a", "train_labels": "b"}
RESULTS = ("history.csv", "report.html", "predictions.png", "figures", "model.keras")


def write(directory: pathlib.Path, *, finished_epochs: int = 0, **flags: object) -> None:
    """Makes `directory` that of a run with these flags."""
    config = dataclasses.asdict(Config(dataset="mnist", **flags).resolved())
    record = {"config": config, "resolved": {}, "data": {"sha256": SHA256}}
    run_directory.write_json(str(directory), "config.json", record)
    if finished_epochs:
        metrics = {"finished": True, "epochs": finished_epochs, "steps": 50}
        run_directory.write_json(str(directory), "metrics.json", metrics)
        (directory / "saved_model" / "50").mkdir(parents=True)
        for name in RESULTS:
            (directory / name).touch()


def test_no_directory_and_an_empty_one_hold_no_run(tmp_path: pathlib.Path) -> None:
    for path in (None, str(tmp_path / "new"), str(tmp_path)):
        assert examine(Config(model_dir=path, resume="never")).state is State.NEW
        with pytest.raises(UsageError, match="--resume=must"):
            examine(Config(model_dir=path, resume="must"))


@pytest.mark.parametrize(
    ("finished", "steps", "epochs", "state"),
    [
        (0, (), 5, State.RESUMABLE),
        (0, (9, 20), 5, State.RESUMABLE),
        (0, (9, 50), 5, State.TRAINED),
        (5, (50,), 5, State.FINISHED),
        (5, (50,), 3, State.FINISHED),
        (5, (40,), 6, State.RESUMABLE),
        (5, (50,), 6, State.TRAINED),
    ],
)
def test_a_directory_says_how_far_its_run_has_come(tmp_path, finished, steps, epochs, state):
    """50 is the run's last step."""
    write(tmp_path, finished_epochs=finished)
    (tmp_path / "checkpoints").mkdir()
    for step in steps:
        (tmp_path / "checkpoints" / f"step-{step}.index").touch()
    config = Config(model_dir=str(tmp_path), epochs=epochs)
    assert examine(config, last_step=50, data_sha256=SHA256).state is state
    assert run_directory.has_finished(config) is (state is State.FINISHED)


@pytest.mark.parametrize("lost", [*RESULTS, "saved_model/50", "metrics.json"])
def test_a_finished_run_that_lost_a_result_is_not_finished(tmp_path, lost) -> None:
    write(tmp_path, finished_epochs=5)
    files.remove(str(tmp_path / lost))
    assert examine(Config(model_dir=str(tmp_path))).state is State.RESUMABLE


def test_checkpoints_without_a_record_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-10.index").touch()
    with pytest.raises(UsageError, match=r"no config\.json.*put it back"):
        examine(Config(model_dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_a_record_that_is_no_file_is_refused_at_once(tmp_path, kind, name) -> None:
    write(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if kind == "device":
        (tmp_path / name).symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / name)
    with pytest.raises(UsageError, match=f"{tmp_path / name} .*not a file"):
        examine(Config(model_dir=str(tmp_path)))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("what", ["write", "read"])
def test_a_missing_permission_names_the_owner_and_what_mends_it(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        write(directory)
        os.chmod(directory / "config.json", 0o600)
        os.chmod(directory, 0o755)
        os.setegid(54321)
        os.seteuid(12345)
        try:
            with pytest.raises((UsageError, StorageError)) as caught:
                read(name) if what == "read" else check_path(f"{name}/run", write=True)
        finally:
            os.seteuid(0)
            os.setegid(0)
    for named in ("0:0", "drwxr-xr-x", "12345:54321", f"chgrp -R 54321 {name} && chmod -R g+rwXs"):
        assert named in str(caught.value)


@pytest.mark.parametrize("flags", [{}, {"dataset": "mnist"}, {"epochs": 9}, {"resume": "must"}])
def test_the_same_run_goes_on(tmp_path: pathlib.Path, flags: dict[str, object]) -> None:
    write(tmp_path)
    recorded = examine(Config(model_dir=str(tmp_path), **flags))
    assert (recorded.state, recorded.config["dataset"]) == (State.RESUMABLE, "mnist")
    with pytest.raises(UsageError, match="--resume=never"):
        examine(Config(model_dir=str(tmp_path), **flags | {"resume": "never"}))


def test_another_run_is_refused_with_all_that_differs(tmp_path: pathlib.Path) -> None:
    write(tmp_path, seed=1, augment="none")
    config = Config(model_dir=str(tmp_path), seed=2, augment="shift", epochs=7)
    with pytest.raises(UsageError) as caught:
        examine(config, data_sha256=SHA256 | {"train_labels": "c"})
    for difference in ("--seed=2", "--augment=shift", "train_labels"):
        assert difference in str(caught.value)
    assert "--epochs" not in str(caught.value)


def test_a_new_run_never_takes_the_name_of_another(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        path = run_directory.default_path("mnist", "mlp")
        assert re.fullmatch(r"runs/mnist-mlp-\d{8}-\d{6}", path)
        os.makedirs(path)
