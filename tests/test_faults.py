"""Faults done to whole runs: kills, a full disk, leaks, secrets.

`FAULT_KILLS` and `FAULT_SEED` repeat or prolong what is random.
"""

import csv
import json
import os
import pathlib
import random
import re
import resource
import shutil
import time
import xml.etree.ElementTree

import conftest
import pytest
import runs
import tensorflow as tf
from PIL import Image
from test_resume import FLAGS, assert_as_if_undisturbed, steps_saved

KILLS = int(os.environ.get("FAULT_KILLS", "100"))
SEED = int(os.environ.get("FAULT_SEED", time.time_ns() % 100_000))

# What a killed process may leave, and the next one clears away.
LEFTOVER = re.compile(r"\.partial-|_temp|\.tempstate|^\.lock$")
SECRETS = {
    name: f"canary-{number}-5f1c09"
    for number, name in enumerate(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PASSWORD"))
}


@pytest.fixture(scope="module")
def undisturbed(server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path_factory) -> conftest.Run:
    """A run of FLAGS that nothing happened to, with secrets in its environment."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    flags = (*FLAGS, f"--data_dir={tiny_dir}")
    answer = server(*flags, f"--model_dir={directory}", **SECRETS)
    return conftest.Run(directory, flags, answer)


def check_equal(directory: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Asserts that a finished run is whole and equals another, files and curves included."""
    check_whole(directory)
    assert_as_if_undisturbed(directory, undisturbed)


def check_whole(directory: pathlib.Path) -> None:
    """Reads each file with a final name as its users do; event files grow while a run lives."""
    for path in directory.rglob("*"):
        if any(map(LEFTOVER.search, path.relative_to(directory).parts)):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            assert len({len(row) for row in csv.reader(path.read_text().splitlines())}) == 1
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".svg":
            xml.etree.ElementTree.parse(path)
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".index" and path.parent.name == "checkpoints":
            reader = tf.train.load_checkpoint(str(path.with_suffix("")))
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
        elif path.parent.name == "saved_model":
            answer = tf.saved_model.load(str(path)).signatures["serving_default"]
            answer(images=tf.zeros((1, 28, 28), tf.uint8))


@pytest.mark.slow
def test_a_run_killed_at_100_moments_ends_as_if_nothing_had_happened(undisturbed, tmp_path) -> None:
    """Kills in training, and while files are written: as soon as a temporary name is there."""
    chance, directory, kills = random.Random(SEED), tmp_path / "run", 0
    print(f"FAULT_SEED={SEED}")
    while kills < KILLS:
        process = runs.task(*undisturbed.flags, f"--model_dir={directory}")
        # Ten kills a run: the last ones come while it is exported and drawn.
        target = min(90, steps_saved(directory) + chance.randint(0, 20))
        writing = chance.random() < 0.5
        while process.poll() is None and steps_saved(directory) < target:
            time.sleep(0.001)
        deadline = time.monotonic() + chance.uniform(0, 2)
        while process.poll() is None and time.monotonic() < deadline:
            if writing and any(directory.rglob(".partial-*")):
                break
            time.sleep(0.001)
        process.kill()
        err = process.communicate()[1]
        assert (process.returncode, err) in ((0, ""), (-9, ""))
        kills += process.returncode != 0
        check_whole(directory)
        if process.returncode == 0:
            check_equal(directory, undisturbed.directory)
            shutil.rmtree(directory)
    process = runs.task(*undisturbed.flags, f"--model_dir={directory}")
    assert (process.communicate()[1], process.returncode) == ("", 0)
    check_equal(directory, undisturbed.directory)


def limit_files() -> None:
    """A limit to the size of a file stands in for a full disk; a checkpoint has 1.2 MB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))


def test_a_directory_that_cannot_be_written_is_one_line_and_the_run_resumes(
    server: runs.TaskServer, undisturbed: conftest.Run, tmp_path: pathlib.Path
) -> None:
    """The environment is bare besides."""
    directory = tmp_path / "run"
    flags = (*undisturbed.flags, f"--model_dir={directory}")
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(runs.ROOT), "LC_ALL": "C"}
    process = runs.task(*flags, env=bare, preexec_fn=limit_files)
    err = process.communicate()[1]
    assert process.returncode == 1
    assert re.fullmatch(rf"error: cannot write in {directory}: File too[^\n]*\n", err)
    check_whole(directory)
    server(*flags)
    check_equal(directory, undisturbed.directory)


def test_no_secret_of_the_environment_gets_into_what_a_run_prints_or_leaves(undisturbed) -> None:
    found = {path: path.read_bytes() for path in undisturbed.directory.rglob("*") if path.is_file()}
    assert len(found) > 10
    found["output"] = (undisturbed.answer.out + undisturbed.answer.err).encode()
    for secret in SECRETS.values():
        assert [where for where, content in found.items() if secret.encode() in content] == []


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")
def test_a_run_of_200_epochs_leaks_neither_memory_nor_files(tiny_dir, tmp_path) -> None:
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={tmp_path}/run", "--epochs=200")
    process = runs.task(*flags, "--keep_checkpoints=2")
    measured = {}
    while process.poll() is None:
        epoch = steps_saved(tmp_path / "run") // runs.STEPS_AN_EPOCH
        if epoch in range(20, 200, 20) and epoch not in measured:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            memory = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
            measured[epoch] = memory, len(os.listdir(f"/proc/{process.pid}/fd"))
        time.sleep(0.002)
    assert (process.communicate()[1], process.returncode) == ("", 0)
    assert len(measured) >= 5
    memory, handles = zip(*measured.values(), strict=True)
    assert memory[-1] - memory[0] < 40  # MB that allocators keep; 180 epochs' leak would be more
    assert max(handles) - min(handles) <= 3  # a file that is being written
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.index"))) == 2
