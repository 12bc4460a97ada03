"""The entry: a wrong invocation is one line, its exit code, and no wait for TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import pytest
import runs
from data_mirror import digits, gz_files, write

from trainer.config import Config
from trainer.run import directory as run_directory

TWO_WORKERS = {
    "TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}'
}


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runs.TaskServer]:
    """A process that answers command lines and never gets as far as TensorFlow."""
    with runs.TaskServer(tmp_path_factory.mktemp("entry")) as process:
        yield process


# Each is refused, and the line has to name this.
WRONG_FLAGS = {
    "--epoch=3": "epoch",
    "--epochs=0": "--epochs=0",
    "--epochs": "epochs",
    "--model=resnet": "mlp",
    "--dataset=cifar10": "fashion_mnist",
    "--dataset=own": "--data_dir",
    "--batch_size=0": "batch_size",
    "--batch_size=60001": "60000",
    "--learning_rate=nan": "learning_rate",
    "--label_smoothing=1.0": "label_smoothing",
    "--seed=2147483648": "2147483647",
    "--virtual_devices=3 --batch_size=128": "--batch_size=129",
    "--virtual_devices=7": "7 replicas",
    "--virtual_devices=2 --strategy=cpu": "--strategy=cpu",
    "--strategy=multi_worker": "TF_CONFIG",
    "--profile=20,10": "FIRST,LAST",
    "--model_dir=\udcff": "--model_dir",
    "--model_dir=file://run": "file:///",
    "train": "'train'",
    "--flagfile=no/such.flags": "no/such.flags",
    "--resume=must": "--resume=must",
    "--dataset=synthetic --data_dir=somewhere": "--data_dir",
}


@pytest.mark.parametrize(("flags", "named"), WRONG_FLAGS.items())
def test_a_wrong_flag_is_one_line_and_exit_code_2_without_tensorflow(entry, flags, named) -> None:
    answer = entry(*flags.split(), code=2)
    assert named in answer.message
    assert answer.out == ""
    assert not answer.tensorflow


@pytest.mark.parametrize(
    ("env", "flag", "named"),
    [
        ({"TF_CONFIG": "{"}, "--seed=1", "TF_CONFIG"),
        ({"WORKER_COUNT": "two"}, "--seed=1", "WORKER_COUNT"),
        (TWO_WORKERS, "--seed=1", "--model_dir"),
        (TWO_WORKERS, "--strategy=cpu", "--strategy=cpu"),
        (TWO_WORKERS, "--batch_size=33", "--batch_size=32"),
        (TWO_WORKERS, "--virtual_devices=2", "--virtual_devices=2"),
    ],
)
def test_a_wrong_cluster_or_flags_that_do_not_fit_it_are_exit_code_2(
    entry: runs.TaskServer, env: dict[str, str], flag: str, named: str, tmp_path: pathlib.Path
) -> None:
    flags = [flag] if named == "--model_dir" else [flag, f"--model_dir={tmp_path}"]
    answer = entry(*flags, code=2, **env)
    assert named in answer.message
    assert not answer.tensorflow


def test_a_gpu_that_is_not_there_is_exit_code_2(entry: runs.TaskServer) -> None:
    if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri"))):
        pytest.skip("this machine has a GPU")
    answer = entry("--strategy=gpu", code=2)
    assert "no GPU" in answer.message


def test_a_model_dir_that_is_no_directory_or_cannot_be_written_is_refused_in_one_line(
    entry, tmp_path
) -> None:
    file, link = tmp_path / "two\nlines\x1b[31m", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path / "gone")
    nobody = "/proc/self/net/a/b"  # root can write to a directory whose mode forbids it
    refused = {file: "two\\nlines\\x1b", file / "below": "\\x1b", link: str(link)}
    for path, named in (refused | {nobody: f"cannot write to --model_dir={nobody}"}).items():
        answer = entry(f"--model_dir={path}", code=2)
        assert named in answer.message
        assert not answer.tensorflow
    assert file.read_text() == "mine"


def record_run(directory: pathlib.Path, metrics: dict[str, object] | None = None) -> None:
    """Makes `directory` that of a run with the default flags and MNIST."""
    config = dataclasses.asdict(Config(dataset="mnist", validation_examples=5000).resolved())
    record = {"config": config, "resolved": {}, "data": {}}
    run_directory.write_json(str(directory), "config.json", record)
    if metrics:
        run_directory.write_json(str(directory), "metrics.json", metrics)
        for name in (
            "history.csv",
            "report.html",
            "predictions.png",
            "model.keras",
            "figures",
            "saved_model/9",
        ):
            (directory / name).mkdir(parents=True)


@pytest.mark.parametrize(("steps", "model"), [((), "mlp"), ((5,), "cnn")])
def test_weights_to_begin_with_that_cannot_be_had_are_refused_at_once(
    entry: runs.TaskServer, tmp_path: pathlib.Path, steps: tuple[int, ...], model: str
) -> None:
    record_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for step in steps:
        (tmp_path / "checkpoints" / f"step-{step}.index").touch()
    flags = (f"--model={model}", f"--model_dir={tmp_path / 'run'}", f"--init_from={tmp_path}")
    answer = entry(*flags, code=2)
    assert ("--model=mlp" if steps else "no run with a checkpoint") in answer.message
    assert not answer.tensorflow


@pytest.mark.parametrize(
    ("flag", "recorded"),
    {
        "--seed=2": 1,
        "--model=cnn": "mlp",
        "--learning_rate=0.5": 0.008,
        "--precision=bfloat16": "auto",
        "--validation_examples=10": 5000,
    }.items(),
)
def test_a_directory_of_another_run_is_refused_with_what_differs(entry, tmp_path, flag, recorded):
    record_run(tmp_path)
    before = runs.snapshot(tmp_path)
    answer = entry(flag, f"--model_dir={tmp_path}", code=2)
    assert f"{flag} (the run has {recorded})" in answer.message
    assert not answer.tensorflow
    assert runs.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"config": 1}',
        b'{"config": {}, "resolved": {}}',
        b'{"config": {}, "resolved": {}, "data": {"sha256": []}}',
        b'{"config": {}, "resolved": {"precision": "float8"}, "data": {}}',
        b"\xff\xfe",
        b"[" * 99999,
        b'{"finished": tr',
    ],
    ids=range(9),
)
def test_a_damaged_record_is_named(entry, tmp_path, content) -> None:
    record_run(tmp_path)
    name = "metrics.json" if b"finished" in content else "config.json"
    (tmp_path / name).write_bytes(content)
    answer = entry(f"--model_dir={tmp_path}", code=2)
    assert str(tmp_path / name) in answer.message
    assert not answer.tensorflow


def test_a_finished_run_is_left_as_it_is_without_tensorflow(entry, tmp_path) -> None:
    record_run(tmp_path, {"finished": True, "epochs": 5, "steps": 9})
    before = runs.snapshot(tmp_path)
    answer = entry(f"--model_dir={tmp_path}")
    assert "finished already" in answer.out
    assert answer.err == ""
    assert not answer.tensorflow
    assert runs.snapshot(tmp_path) == before


def test_a_current_directory_that_is_gone_is_one_line(tmp_path: pathlib.Path) -> None:
    program = """
        import os, sys
        from trainer import task
        os.chdir(sys.argv[1])
        os.rmdir(sys.argv[1])
        sys.exit(task.main(["task", "--model_dir=/absolute"]))
    """
    process = runs.python(program, args=[str(tmp_path)])
    err = process.communicate()[1]
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "current directory" in err


@pytest.mark.parametrize("defect", ["missing", "empty", "cut"])
def test_wrong_data_are_exit_code_3_and_leave_no_run_behind(server, tmp_path, defect) -> None:
    if defect != "missing":
        files = gz_files(digits(1)) if defect == "cut" else {}
        write(tmp_path / "data", {name: content[:-9] for name, content in files.items()})
    answer = server(f"--data_dir={tmp_path}/data", f"--model_dir={tmp_path}/run", code=3)
    assert str(tmp_path / "data") in answer.message
    assert not (tmp_path / "run").exists()


def test_help_documents_every_flag(entry: runs.TaskServer) -> None:
    answer = entry("--help")
    assert answer.err == ""
    assert not answer.tensorflow
    letters = "".join(answer.out.split())
    for field in dataclasses.fields(Config):
        assert f"--{field.name}:{''.join(field.metadata['help'].split())}" in letters
    assert "--flagfile" in letters
    assert entry("-h").out == entry("--epochs=0", "--help").out == answer.out


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--batch_size=12x", 2)])
def test_a_process_of_its_own_answers_alike(flag: str, code: int) -> None:
    """TensorFlow is made impossible to import: what does not need it does not try."""
    program = (
        "import sys, runpy; sys.modules['tensorflow'] = None;"
        " runpy.run_module('trainer.task', run_name='__main__', alter_sys=True)"
    )
    process = runs.python(program, args=[flag])
    out, err = process.communicate()
    assert process.returncode == code
    assert "--epochs" in out if code == 0 else "--batch_size" in err
    assert err.count("\n") == (1 if code else 0)
