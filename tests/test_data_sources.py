"""Where a data set is read from, what goes wrong on the way, and `python -m trainer.data`."""

from __future__ import annotations

import gzip
import hashlib
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from data_mirror import closed_port, digits, gz_files, idx_bytes, mirrors, publish, write

import trainer.data
from trainer.data import __main__ as command
from trainer.data.formats import NPZ_MEMBERS
from trainer.errors import DataError, NetworkError

OFFLINE = {"mnist": publish(gz_files(digits(0)), [closed_port()])}
KERAS, OWN = "home/.keras/datasets", "home/.cache/number-recognition/mnist"


@pytest.fixture
def machine(tmp_path, monkeypatch) -> pathlib.Path:
    """A directory with an empty home."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("MNIST_DATA_DIR", "KERAS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def load(name: str = "mnist", data_dir: object = None, **options) -> trainer.data.Dataset:
    directory = None if data_dir is None else str(data_dir)
    return trainer.data.load(name, directory, **{"published": OFFLINE} | options)


def assert_holds(dataset: trainer.data.Dataset, seed: int) -> None:
    for (field, sha256), written in zip(dataset.sha256.items(), digits(seed), strict=True):
        np.testing.assert_array_equal(getattr(dataset, field), written)
        assert sha256 == hashlib.sha256(written.tobytes()).hexdigest()


def save_npz(directory: pathlib.Path, seed: int, **changes: np.ndarray) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    members = dict(zip(NPZ_MEMBERS, digits(seed), strict=True)) | changes
    np.savez(directory / "mnist.npz", **members)


def test_what_a_person_names_goes_before_the_caches_and_keras_before_our_own(machine, monkeypatch):
    write(machine / OWN, gz_files(digits(1)))
    assert_holds(load(), 1)
    save_npz(machine / KERAS, 2)
    assert_holds(load(), 2)
    monkeypatch.setenv("MNIST_DATA_DIR", str(machine / "variable"))
    write(machine / "variable", gz_files(digits(3)))
    assert_holds(load(), 3)
    write(machine / "home/flag", gz_files(digits(4)))
    dataset = load("auto", "~/flag")
    assert_holds(dataset, 4)
    assert (dataset.name, dataset.source) == ("mnist", str(machine / "home/flag"))


def test_the_caches_move_with_their_variables(machine, monkeypatch):
    places = {"XDG_CACHE_HOME": "number-recognition/mnist", "KERAS_HOME": "datasets"}
    for seed, (variable, below) in enumerate(places.items()):
        write(machine / variable / below, gz_files(digits(seed)))
        monkeypatch.setenv(variable, str(machine / variable))
        assert_holds(load(), seed)


def test_plain_and_packed_files_mix_and_idx_goes_before_npz(machine):
    files = gz_files(digits(7))
    del files["t10k-images-idx3-ubyte.gz"]
    save_npz(write(machine / "mixed", files), 8)
    assert_holds(load("mnist", machine / "mixed"), 8)  # not complete
    write(machine / "mixed", {"t10k-images-idx3-ubyte": idx_bytes(digits(7)[2])})
    assert_holds(load("mnist", machine / "mixed"), 7)


LABELS = "t10k-labels-idx1-ubyte.gz"
DEFECTS = {
    "incomplete": None,
    "damaged": b"no gzip",
    "unequal": gzip.compress(idx_bytes(digits(1, test=6)[3])),
    "label 10": gzip.compress(idx_bytes(np.full(5, 10, np.uint8))),
}


def spoil(directory: pathlib.Path, defect: str) -> None:
    """Makes a directory with a data set whose test labels are defective."""
    write(directory, gz_files(digits(1)) | {LABELS: DEFECTS[defect] or b""})
    if DEFECTS[defect] is None:
        (directory / LABELS).unlink()


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("defect", ["missing", *DEFECTS])
def test_a_defect_in_a_place_that_was_named_is_an_error(machine, monkeypatch, by_variable, defect):
    save_npz(machine / KERAS, 1)  # must not be taken instead
    if defect in DEFECTS:
        spoil(machine / "named", defect)
    if by_variable:
        monkeypatch.setenv("MNIST_DATA_DIR", str(machine / "named"))
    with pytest.raises(DataError, match=str(machine / "named")) as caught:
        load("auto", None if by_variable else machine / "named")
    assert "\n" not in str(caught.value)


def test_an_archive_of_other_arrays_is_refused(machine):
    for changes in (
        {"x_train": np.zeros((12, 28, 28), np.float32)},
        {"x_train": np.zeros((12, 784), np.uint8)},
        {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)},
        {"x_test": np.uint8(7)},
        {"y_train": np.zeros((12, 1), np.uint8)},
    ):
        save_npz(machine / "named", 1, **changes)
        with pytest.raises(DataError, match=str(machine / "named" / "mnist.npz")):
            load("mnist", machine / "named")


def test_a_defective_cache_is_passed_over_with_one_line_and_then_replaced(machine):
    spoil(machine / OWN, "damaged")
    save_npz(machine / KERAS, 1, y_test=np.zeros(6, np.uint8))
    files, messages = gz_files(digits(5)), []
    with mirrors(files) as [mirror]:
        published = {"mnist": publish(files, [mirror.url])}
        assert_holds(load(published=published, notify=messages.append), 5)
    keras, own, download = messages
    assert str(machine / KERAS) in keras
    assert str(machine / OWN) in own
    assert not any("\n" in line for line in (keras, own, download))
    (machine / KERAS / "mnist.npz").unlink()
    assert_holds(load(), 5)


def test_fashion_mnist_has_its_own_places_and_is_not_mnist(machine, monkeypatch, mnist_dir):
    monkeypatch.setenv("MNIST_DATA_DIR", "/nowhere")
    monkeypatch.setenv("FASHION_MNIST_DATA_DIR", str(machine / "fashion"))
    write(machine / "fashion", gz_files(digits(6)))
    assert_holds(load("fashion_mnist"), 6)
    with pytest.raises(DataError, match="is from MNIST"):
        load("fashion_mnist", mnist_dir)
    # Zeros, ones and twos of the test set, as counted in many descriptions of MNIST.
    labels = load("mnist", mnist_dir).test_labels
    assert np.bincount(labels)[:3].tolist() == [980, 1135, 1032]


def test_an_error_without_a_download_says_what_to_do(machine, monkeypatch):
    for home, error in ((machine / "home", NetworkError), ("/dev/null", DataError)):
        monkeypatch.setenv("HOME", str(home))
        with pytest.raises(error, match=r"--data_dir.*--dataset=synthetic") as caught:
            load()
        assert "\n" not in str(caught.value)
        assert ("try again" in str(caught.value)) == (error is NetworkError)


def test_auto_falls_back_to_synthetic_digits_with_a_warning(machine):
    messages: list[str] = []
    dataset = load("auto", notify=messages.append, synthetic_examples=(20, 10))
    assert dataset.name == "synthetic"
    assert dataset.train_images.shape == (20, 28, 28)
    assert ["SYNTHETIC" in message for message in messages] == [True]


def test_the_command_fetches_only_what_a_directory_lacks(tmp_path):
    files = gz_files(digits(3))
    own = {"t10k-labels-idx1-ubyte": idx_bytes(digits(4)[3])}
    write(tmp_path, {"train-images-idx3-ubyte.gz": files["train-images-idx3-ubyte.gz"]} | own)
    with mirrors(files) as [mirror]:
        published = {"mnist": publish(files, [mirror.url])}
        dataset = command.complete(str(tmp_path), "mnist", published)
        assert mirror.gets == ["train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"]
    np.testing.assert_array_equal(dataset.test_labels, digits(4)[3])


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["--data_dir=SOUND"], 0, ""),
        (["--data_dir="], 2, "--data_dir"),
        (["--data_dir=/dev/null/x\ny"], 2, r"/dev/null/x\ny"),
        (["--data_dir=DAMAGED"], 3, "t10k-labels-idx1-ubyte.gz"),
        (["--data_dir=EMPTY"], 1, "lacks train-images-idx3-ubyte"),
    ],
)
def test_the_command_answers_with_the_right_code_and_one_line(tmp_path, arguments, code, names):
    spoil(tmp_path / "DAMAGED", "damaged")
    write(tmp_path / "EMPTY", {})
    write(tmp_path / "SOUND", gz_files(digits(3)))
    here = [re.sub(r"=([A-Z]+)$", rf"={tmp_path}/\1", argument) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.data", *here],
        env=os.environ | {"HTTPS_PROXY": closed_port(), "https_proxy": closed_port()},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if code else 0)
    assert names in done.stderr
    if code == 0:
        assert "12 training and 5 test" in done.stdout


def test_flags_are_checked_without_numpy_and_data_is_read_without_tensorflow(tmp_path):
    program = (
        "import sys, trainer.data; assert 'numpy' not in sys.modules;"
        "trainer.data.load('mnist', sys.argv[1]);"
        "assert not {'tensorflow', 'keras', 'pooch', 'requests'} & set(sys.modules)"
    )
    write(tmp_path, gz_files(digits(3)))
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
