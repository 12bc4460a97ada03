"""Which data set is read when several could be: what a person names counts alone, then the caches
in their order.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from data_mirror import closed_port, digits, gz_files, idx_bytes, mirrors, publish, write

import trainer.data
from trainer.data import __main__ as command
from trainer.data.catalog import FILE_NAMES
from trainer.errors import DataError, UsageError

OFFLINE = {"mnist": publish(gz_files(digits(0)), [closed_port()])}
FIELDS = ("train_images", "train_labels", "test_images", "test_labels")

# Seed of the digits that each place holds, in the order in which the places count.
PLACES = {
    "home/.keras/datasets": 1,
    "here/data/MNIST/raw": 2,
    "data/MNIST/raw": 3,
    "home/data/MNIST/raw": 4,
    "home/.cache/number-recognition/mnist": 5,
}


@pytest.fixture
def machine(tmp_path, monkeypatch) -> pathlib.Path:
    """A directory with a home and a working directory, both empty."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def load(machine: pathlib.Path, name: str = "mnist", data_dir: str | None = None, **environ):
    """Loads on that machine, offline; returns the data set and what a person was told."""
    told = []
    environ = {"HOME": str(machine / "home")} | {key: str(value) for key, value in environ.items()}
    dataset = trainer.data.load(
        name, data_dir, environ=environ, published=OFFLINE, notify=told.append
    )
    return dataset, told


def assert_holds(dataset: trainer.data.Dataset, seed: int) -> None:
    for field, written in zip(FIELDS, digits(seed), strict=True):
        np.testing.assert_array_equal(getattr(dataset, field), written)


def save_npz(directory: pathlib.Path, seed: int, name: str = "mnist.npz") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    members = dict(zip(("x_train", "y_train", "x_test", "y_test"), digits(seed), strict=True))
    np.savez(directory / name, **members)


def test_the_caches_are_tried_in_the_documented_order(machine):
    save_npz(machine / "home/.keras/datasets", 1)
    for place, seed in list(PLACES.items())[1:]:
        write(machine / place, gz_files(digits(seed)))
    for place, seed in PLACES.items():
        dataset, told = load(machine)
        assert_holds(dataset, seed)
        assert told == []
        for path in (machine / place).iterdir():
            path.unlink()
    with pytest.raises(DataError):
        load(machine)


def test_what_a_person_names_goes_before_the_caches(machine):
    save_npz(machine / "home/.keras/datasets", 1)
    write(machine / "variable", gz_files(digits(6)))
    write(machine / "flag", gz_files(digits(7)))
    assert_holds(load(machine, MNIST_DATA_DIR=machine / "variable")[0], 6)
    assert_holds(load(machine, MNIST_DATA_DIR="")[0], 1)
    dataset, _ = load(machine, "mnist", str(machine / "flag"), MNIST_DATA_DIR=machine / "variable")
    assert_holds(dataset, 7)
    assert dataset.name == "mnist"
    assert dataset.source == str(machine / "flag")


def test_keras_home_and_xdg_cache_home_are_respected(machine):
    save_npz(machine / "keras/datasets", 8)
    assert_holds(load(machine, KERAS_HOME=machine / "keras")[0], 8)
    write(machine / "xdg/number-recognition/mnist", gz_files(digits(9)))
    assert_holds(load(machine, XDG_CACHE_HOME=machine / "xdg")[0], 9)


def test_a_tilde_in_a_name_is_the_home_directory(machine, monkeypatch):
    monkeypatch.setenv("HOME", str(machine / "home"))
    write(machine / "home/digits", gz_files(digits(7)))
    assert_holds(load(machine, "mnist", "~/digits")[0], 7)


def test_plain_and_packed_files_mix_and_idx_goes_before_npz(machine):
    files = gz_files(digits(7))
    del files["t10k-images-idx3-ubyte.gz"]
    write(machine / "mixed", files)
    save_npz(machine / "mixed", 8)
    assert_holds(load(machine, "mnist", str(machine / "mixed"))[0], 8)  # not complete
    write(machine / "mixed", {"t10k-images-idx3-ubyte": idx_bytes(digits(7)[2])})
    assert_holds(load(machine, "mnist", str(machine / "mixed"))[0], 7)


def spoil(directory: pathlib.Path, how: str) -> str:
    """Makes a directory that cannot be used, and returns what the error has to say."""
    if how == "missing":
        return f"{directory}: No such file or directory"
    if how == "a file":
        directory.write_text("")
        return f"{directory}: Not a directory"
    write(directory, gz_files(digits(1)) if how != "empty" else {})
    if how == "empty":
        return f"{directory}: no train-images-idx3-ubyte, no train-labels-idx1-ubyte"
    path = directory / "t10k-labels-idx1-ubyte.gz"
    if how == "incomplete":
        path.unlink()
        return f"{directory}: no t10k-labels-idx1-ubyte (plain or .gz) there"
    if how == "damaged":
        path.write_bytes(b"no gzip")
        return f"{path}: not a sound gzip file"
    path = directory / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(digits(1, test=6)[3]))
    return f"t10k-images-idx3-ubyte.gz and {path}: 5 test images, but 6 test labels"


@pytest.mark.parametrize("name", ["auto", "mnist"])
@pytest.mark.parametrize("by", ["--data_dir", "$MNIST_DATA_DIR"])
@pytest.mark.parametrize("how", ["missing", "a file", "empty", "incomplete", "damaged", "unequal"])
def test_a_defect_in_a_place_that_was_named_is_an_error(machine, name, by, how):
    save_npz(machine / "home/.keras/datasets", 1)  # must not be taken instead
    says = spoil(machine / "named", how)
    named = str(machine / "named")
    flag, variables = (named, {}) if by == "--data_dir" else (None, {"MNIST_DATA_DIR": named})
    with pytest.raises(DataError) as caught:
        load(machine, name, flag, **variables)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    if how not in ("damaged", "unequal"):  # those name the files
        assert f"{by}=" in str(caught.value)


def test_an_empty_data_dir_is_an_error(machine):
    with pytest.raises(DataError, match="--data_dir=: No such file"):
        load(machine, "mnist", "")


def test_a_defective_cache_is_passed_over_with_one_line(machine):
    spoil(machine / "home/data/MNIST/raw", "damaged")
    write(machine / "home/.cache/number-recognition/mnist", gz_files(digits(5)))
    dataset, [line] = load(machine)
    assert_holds(dataset, 5)
    assert line.startswith("warning: ")
    assert str(machine / "home/data/MNIST/raw/t10k-labels-idx1-ubyte.gz") in line
    assert "\n" not in line


def test_fashion_mnist_has_its_own_places(machine):
    about = {"fashion_mnist": publish(gz_files(digits(0)), [closed_port()])}
    write(machine / "fashion", gz_files(digits(6)))
    environ = {"FASHION_MNIST_DATA_DIR": str(machine / "fashion"), "MNIST_DATA_DIR": "/nowhere"}
    dataset = trainer.data.load("fashion_mnist", environ=environ, published=about)
    assert dataset.name == "fashion_mnist"
    assert_holds(dataset, 6)


def test_mnist_is_not_taken_for_fashion_mnist(mnist_dir):
    with pytest.raises(DataError, match="from MNIST, not from Fashion-MNIST"):
        trainer.data.load("fashion_mnist", str(mnist_dir))


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "neither $HOME nor $XDG_CACHE_HOME"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "neither $HOME nor $XDG_CACHE_HOME"),
        ({"HOME": "/dev/null"}, "cannot write /dev/null/.cache/number-recognition/mnist"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "cannot write /dev/null/number-recognition/mnist"),
    ],
)
def test_without_a_place_to_keep_a_download_the_error_says_so(machine, environ, says):
    with pytest.raises(DataError) as caught:
        trainer.data.load("mnist", environ=environ, published=OFFLINE)
    assert says in str(caught.value)
    assert "--data_dir or $MNIST_DATA_DIR, or use --dataset=synthetic" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_checksums_are_those_of_the_arrays(machine):
    write(machine / "flag", gz_files(digits(7)))
    dataset, _ = load(machine, "mnist", str(machine / "flag"))
    assert dataset.sha256 == {
        field: hashlib.sha256(array.tobytes()).hexdigest()
        for field, array in zip(FIELDS, digits(7), strict=True)
    }


def test_auto_falls_back_to_synthetic_digits_with_a_warning_that_stands_out(machine):
    dataset, [warning] = load(machine, "auto")
    assert dataset.name == "synthetic"
    assert len(dataset.train_images) == 60_000
    lines = warning.splitlines()
    assert "WARNING: TRAINING ON SYNTHETIC DIGITS, NOT ON MNIST" in lines[1]
    assert len({len(line) for line in lines}) == 1  # a box
    words = " ".join(warning.replace("|", " ").split())
    assert "no mirror answers" in words
    assert "by --data_dir or $MNIST_DATA_DIR" in words


def test_a_directory_does_not_go_with_synthetic_digits(machine):
    with pytest.raises(UsageError, match="--data_dir does not go with --dataset=synthetic"):
        load(machine, "synthetic", str(machine))


def test_the_real_files_hold_what_is_known_of_them(mnist_dir):
    dataset = trainer.data.load("mnist", str(mnist_dir))
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    # Digits of each class, as counted in many descriptions of MNIST.
    assert np.bincount(dataset.train_labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(dataset.test_labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Runs the command with every mirror out of reach."""
    environ = os.environ | {"HTTPS_PROXY": closed_port(), "https_proxy": closed_port()}
    return subprocess.run(
        [sys.executable, "-m", "trainer.data", *arguments],
        env=environ,
        cwd=pathlib.Path(trainer.data.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_fetches_what_a_directory_lacks_and_reports_each_file(tmp_path):
    files = gz_files(digits(3))
    own = {"t10k-labels-idx1-ubyte": idx_bytes(digits(4)[3])}
    write(tmp_path, {"train-images-idx3-ubyte.gz": files["train-images-idx3-ubyte.gz"]} | own)
    with mirrors(files) as [mirror]:
        about = {"mnist": publish(files, [mirror.url])}
        report = command.fetch_and_check(str(tmp_path), "mnist", about)
        assert len(mirror.gets) == 2
    assert report == [
        f"{tmp_path}/train-images-idx3-ubyte.gz: as published (SHA-256)",
        f"{tmp_path}/train-labels-idx1-ubyte.gz: as published (SHA-256)",
        f"{tmp_path}/t10k-images-idx3-ubyte.gz: as published (SHA-256)",
        f"{tmp_path}/t10k-labels-idx1-ubyte: sound",
        f"MNIST: 12 training and 5 test images in {tmp_path}",
    ]


def test_the_command_accepts_digits_that_are_not_the_published_ones_and_says_so(tmp_path):
    done = run("--data_dir", str(write(tmp_path, gz_files(digits(3)))))
    assert (done.returncode, done.stderr) == (0, "")
    *files, closing = done.stdout.splitlines()
    assert len(files) == len(FILE_NAMES)
    assert all(line.endswith("not the published file") for line in files)
    assert closing == f"MNIST: 12 training and 5 test images in {tmp_path}"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--data_dir"),
        (["--data_dir="], 2, "--data_dir is empty"),
        (["--data_dir=D", "--no_such_flag"], 2, "--no_such_flag"),
        (["--data_dir=D", "--dataset=synthetic"], 2, "'synthetic'"),
        (["--data_dir=/dev/null"], 2, "/dev/null is not a directory"),
        (["--data_dir=/dev/null/x"], 2, "cannot write /dev/null/x"),
        (["--data_dir=/dev/null/x\ny"], 2, r"cannot write /dev/null/x\ny"),
        (["--data_dir=DAMAGED"], 3, "t10k-labels-idx1-ubyte.gz: not a sound gzip file"),
        (["--data_dir=EMPTY"], 3, "lacks train-images-idx3-ubyte"),
    ],
)
def test_the_command_answers_a_fault_with_one_line_and_the_right_code(
    tmp_path, arguments, code, says
):
    spoil(tmp_path / "DAMAGED", "damaged")
    (tmp_path / "EMPTY").mkdir()
    arguments = [
        argument.replace("DAMAGED", f"{tmp_path}/DAMAGED").replace("EMPTY", f"{tmp_path}/EMPTY")
        for argument in arguments
    ]
    done = run(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_flags_are_checked_without_numpy_and_data_is_checked_without_tensorflow(tmp_path):
    program = (
        "import sys, trainer.data, trainer.data.names; assert 'numpy' not in sys.modules;"
        "from trainer.data import __main__; assert __main__.main(sys.argv[1:]) == 0;"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    write(tmp_path, gz_files(digits(3)))
    subprocess.run([sys.executable, "-c", program, "--data_dir", str(tmp_path)], check=True)
