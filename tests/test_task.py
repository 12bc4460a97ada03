"""The entry: a wrong invocation is one line, its exit code, and no wait for TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import runs
from data_mirror import digits, gz_files, write

from trainer.config import Config
from trainer.run import directory as run_directory

PEERS = {"worker": ["a:1", "b:2"]}


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runs.TaskServer]:
    """A process that answers command lines and never gets as far as TensorFlow."""
    with runs.TaskServer(tmp_path_factory.mktemp("entry")) as process:
        yield process


def tf_config(**value: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps(value)}


# Each is refused, and the line has to name this.
WRONG_FLAGS = {
    "--epoch=3": "epoch",
    "--train_steps=100": "train_steps",
    "-x": "x",
    "--epochs=five": "--epochs=five",
    "--epochs=1.5": "--epochs=1.5",
    "--epochs=0": "--epochs=0",
    "--epochs": "epochs",
    "--model=resnet": "mlp",
    "--model=MLP": "mlp",
    "--dataset=cifar10": "fashion_mnist",
    "--augment=flip": "affine",
    "--precision=float64": "bfloat16",
    "--jit_compile=yes": "off",
    "--strategy=tpu": "multi_worker",
    "--resume=yes": "must",
    "--batch_size=0": "batch_size",
    "--batch_size=60001": "60000",
    "--learning_rate=0": "learning_rate",
    "--learning_rate=nan": "learning_rate",
    "--learning_rate=inf": "learning_rate",
    "--learning_rate=fast": "learning_rate",
    "--warmup=1": "warmup",
    "--weight_decay=-1e-4": "weight_decay",
    "--label_smoothing=1.0": "label_smoothing",
    "--steps_per_loop=0": "steps_per_loop",
    "--checkpoint_every=-5": "checkpoint_every",
    "--keep_checkpoints=0": "keep_checkpoints",
    "--validation_examples=-1": "validation_examples",
    "--seed=-1": "seed",
    "--seed=2147483648": "2147483647",
    "--stall_timeout_s=0": "stall_timeout_s",
    "--virtual_devices=65": "64",
    "--virtual_devices=3 --batch_size=128": "--batch_size=129",
    "--virtual_devices=7": "7 replicas",
    "--virtual_devices=2 --strategy=cpu": "--strategy=cpu",
    "--virtual_devices=2 --strategy=gpu": "--virtual_devices=2",
    "--strategy=multi_worker": "TF_CONFIG",
    "--profile=10": "FIRST,LAST",
    "--profile=20,10": "FIRST,LAST",
    "--profile=0,10": "FIRST,LAST",
    "train": "'train'",
    "train --epochs=3": "'train'",
    "--flagfile=no/such.flags": "no/such.flags",
    "--resume=must": "--resume=must",
    "--resume=must --model_dir=nothing/here": "nothing/here",
    "--dataset=synthetic --data_dir=somewhere": "--data_dir",
}


@pytest.mark.parametrize(("flags", "named"), WRONG_FLAGS.items())
def test_a_wrong_flag_is_one_line_and_exit_code_2_without_tensorflow(
    entry: runs.TaskServer, flags: str, named: str
) -> None:
    answer = entry(*flags.split(), code=2)
    assert named in answer.message
    assert answer.out == ""
    assert not answer.tensorflow


WRONG_CLUSTERS = {
    "no JSON": ({"TF_CONFIG": "{"}, "TF_CONFIG"),
    "workers without a shared directory": (
        tf_config(cluster=PEERS, task={"type": "worker", "index": 0}),
        "--model_dir",
    ),
    "worker count in words": ({"WORKER_COUNT": "two"}, "WORKER_COUNT"),
}


@pytest.mark.parametrize(("env", "named"), WRONG_CLUSTERS.values(), ids=WRONG_CLUSTERS)
def test_a_malformed_cluster_is_one_line_and_exit_code_2(
    entry: runs.TaskServer, env: dict[str, str], named: str
) -> None:
    answer = entry(code=2, **env)
    assert named in answer.message
    assert not answer.tensorflow


TWO_WORKERS = tf_config(cluster=PEERS, task={"type": "worker", "index": 0})


@pytest.mark.parametrize(
    ("flags", "named"),
    {
        "strategy of one process": ("--strategy=cpu", "--strategy=cpu"),
        "batch that is not divisible by the workers": ("--batch_size=33", "--batch_size=32"),
        "split CPU": ("--virtual_devices=2", "--virtual_devices=2"),
    }.items(),
)
def test_flags_that_do_not_fit_the_cluster_are_exit_code_2(
    entry: runs.TaskServer, flags: str, named: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    wrong, said = named
    answer = entry(wrong, f"--model_dir={tmp_path}", code=2, **TWO_WORKERS)
    assert said in answer.message
    assert not answer.tensorflow


def test_a_gpu_that_is_not_there_is_exit_code_2(entry: runs.TaskServer) -> None:
    if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri"))):
        pytest.skip("this machine has a GPU")
    answer = entry("--strategy=gpu", code=2)
    assert "no GPU" in answer.message


def test_a_model_dir_that_is_a_file_is_refused(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        answer = entry(f"--model_dir={path}", code=2)
        assert str(path) in answer.message
        assert not answer.tensorflow
    assert file.read_text() == "mine"


def test_a_model_dir_behind_a_dangling_link_is_refused(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    assert str(link) in entry(f"--model_dir={link}", code=2).message


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that nobody can write to")
@pytest.mark.parametrize("path", ["/proc/run", "/sys/kernel/run", "/proc/self/net/a/b"])
def test_a_directory_that_cannot_be_written_is_refused(entry: runs.TaskServer, path: str) -> None:
    """Below /proc and /sys, which bind root as well; a mode does not."""
    answer = entry(f"--model_dir={path}", code=2)
    assert f"cannot write to --model_dir={path}" in answer.message
    assert not answer.tensorflow


def test_a_message_stays_one_line_whatever_a_name_contains(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "two\nlines\x1b[31m"
    file.touch()
    answer = entry(f"--model_dir={file}", code=2)
    assert "two\\nlines\\x1b" in answer.message


def record_run(directory: pathlib.Path, metrics: dict[str, object] | None = None, **flags) -> None:
    """Makes `directory` that of a run with these flags."""
    config = dataclasses.replace(Config(**{"dataset": "mnist", **flags}).resolved())
    directory.mkdir(exist_ok=True)
    run_directory.write_json(
        str(directory), "config.json", {"config": config.to_dict(), "resolved": {}, "data": {}}
    )
    if metrics:
        run_directory.write_json(str(directory), "metrics.json", metrics)


@pytest.mark.parametrize(
    ("flag", "recorded"),
    {
        "--seed=2": 1,
        "--model=cnn": "mlp",
        "--batch_size=64": 128,
        "--learning_rate=0.5": 0.008,
        "--augment=none": "shift",
        "--dataset=fashion_mnist": "mnist",
        "--precision=bfloat16": "auto",
        "--validation_examples=10": 5000,
    }.items(),
)
def test_a_directory_of_another_run_is_refused_with_what_differs(
    entry: runs.TaskServer, tmp_path: pathlib.Path, flag: str, recorded: object
) -> None:
    record_run(tmp_path)
    before = runs.snapshot(tmp_path)
    answer = entry(flag, f"--model_dir={tmp_path}", code=2)
    assert f"{flag} (the run has {recorded})" in answer.message
    assert not answer.tensorflow
    assert runs.snapshot(tmp_path) == before


def test_resume_never_refuses_a_directory_that_holds_a_run(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    record_run(tmp_path)
    assert str(tmp_path) in entry("--resume=never", f"--model_dir={tmp_path}", code=2).message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"config": 1}',
        b'{"config": {}, "resolved": {}}',
        b'{"config": {}, "resolved": {}, "data": {"sha256": []}}',
        b'{"config": {}, "resolved": {"precision": "float8"}, "data": {}}',
        b"\xff\xfe",
        b"[" * 99999,
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "no record",
        "incomplete",
        "no sums",
        "no precision",
        "no text",
        "nested",
    ],
)
def test_a_damaged_config_json_is_named(
    entry: runs.TaskServer, tmp_path: pathlib.Path, content: bytes
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    answer = entry(f"--model_dir={tmp_path}", code=2)
    assert str(tmp_path / "config.json") in answer.message
    assert not answer.tensorflow


def test_a_damaged_metrics_json_is_named(entry: runs.TaskServer, tmp_path: pathlib.Path) -> None:
    record_run(tmp_path)
    (tmp_path / "metrics.json").write_text('{"finished": tr')
    answer = entry(f"--model_dir={tmp_path}", code=2)
    assert str(tmp_path / "metrics.json") in answer.message


def test_a_finished_run_is_left_as_it_is_without_tensorflow(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    record_run(tmp_path, {"finished": True, "epochs": 5})
    before = runs.snapshot(tmp_path)
    answer = entry(f"--model_dir={tmp_path}")
    assert "finished already" in answer.out
    assert answer.err == ""
    assert not answer.tensorflow
    assert runs.snapshot(tmp_path) == before


def test_a_missing_data_directory_is_exit_code_3_without_tensorflow(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    answer = entry(f"--data_dir={tmp_path}/none", f"--model_dir={tmp_path}/run", code=3)
    assert f"--data_dir={tmp_path}/none" in answer.message
    assert not answer.tensorflow
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("defect", ["empty directory", "magic", "cut", "label", "count"])
def test_corrupt_data_is_exit_code_3_and_leaves_no_run_behind(
    server: runs.TaskServer, tmp_path: pathlib.Path, defect: str
) -> None:
    arrays = list(digits(1))
    files = gz_files(tuple(arrays))
    name = "train-labels-idx1-ubyte"
    content = bytearray(b"\x00\x00\x08\x01\x00\x00\x00\x0c" + arrays[1].tobytes())
    if defect == "magic":
        content[2] = 9
    elif defect == "cut":
        del content[-1]
    elif defect == "label":
        content[-1] = 10
    elif defect == "count":
        content[7] -= 1
        del content[-1]
    del files[f"{name}.gz"]
    files[name] = bytes(content)
    write(tmp_path / "data", {} if defect == "empty directory" else files)
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


def test_a_value_that_reads_help_is_no_call_for_help(entry: runs.TaskServer) -> None:
    assert "'help'" in entry("help", code=2).message
    assert "--resume=must" in entry("--resume=must", "--model_dir", "help", code=2).message


def test_flags_can_come_from_a_file(entry: runs.TaskServer, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "my.flags"
    file.write_text("# a comment\n--epochs=7\n\n--seed=-3\n")
    assert "--seed=-3" in entry(f"--flagfile={file}", code=2).message


def test_a_flag_behind_the_flags_file_overrides_it(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "my.flags"
    file.write_text("--model=cnn\n--virtual_devices=3\n")
    flags = (f"--flagfile={file}", "--virtual_devices=7")
    assert "7 replicas" in entry(*flags, code=2).message


def test_a_flags_file_that_is_no_text_is_refused(
    entry: runs.TaskServer, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "my.flags"
    file.write_bytes(b"\xff\xfe\x00--seed=4\n")
    entry(f"--flagfile={file}", code=2)
    assert "flagfile" in entry(f"--flagfile={tmp_path}", code=2).message


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--help"], 0, ""),
        (["--batch_size=12x"], 2, "--batch_size"),
        (["--virtual_devices=3"], 2, "--batch_size"),
    ],
)
def test_a_process_of_its_own_answers_alike(flags: list[str], code: int, said: str) -> None:
    """TensorFlow is made impossible to import: what does not need it does not try."""
    program = (
        "import sys, runpy; sys.modules['tensorflow'] = None;"
        " runpy.run_module('trainer.task', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=runs.ROOT,
        env=runs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [["--help"], ["--epochs=0"]])
def test_a_reader_that_has_left_is_no_error_of_its_own(flags: list[str]) -> None:
    read, written = os.pipe()
    os.close(read)
    process = runs.task(*flags, stdout=written)
    os.close(written)
    said = process.communicate()[1]
    assert process.returncode == (141 if flags == ["--help"] else 2)
    assert "Exception" not in said
    assert "Traceback" not in said
