"""A data file is exactly what it claims to be, or an error that names the file."""

from __future__ import annotations

import contextlib
import gzip
import io
import pathlib
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from data_mirror import digits, idx_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data.formats import NPZ_MEMBERS, read_idx, read_npz
from trainer.errors import DataError

IMAGES, LABELS = digits(1)[:2]
PACKED = gzip.compress(IMAGE_FILE := idx_bytes(IMAGES))
# All examples of a property write over the same file.
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: pathlib.Path, content: bytes) -> pathlib.Path:
    path.write_bytes(content)
    return path


def flipped(content: bytes, *indices: int) -> bytes:
    changed = bytearray(content)
    for index in indices:
        changed[index % len(content)] ^= 0xFF
    return bytes(changed)


def test_arrays_come_back_as_written(tmp_path):
    for array, shape in ((IMAGES, (28, 28)), (LABELS, ())):
        for pack, name in ((bytes, "file"), (gzip.compress, "file.gz")):
            found = read_idx(written(tmp_path / name, pack(idx_bytes(array))), shape)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, array)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "mnist.npz", **dict(zip(NPZ_MEMBERS, digits(2), strict=True)))
        for found, saved in zip(read_npz(tmp_path / "mnist.npz"), digits(2), strict=True):
            np.testing.assert_array_equal(found, saved)


def npy(array: np.ndarray) -> bytes:
    np.save(content := io.BytesIO(), array)
    return content.getvalue()


def archive(x_train: bytes) -> bytes:
    """An archive whose member `x_train.npy` has the content given."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        for name, array in zip(NPZ_MEMBERS, digits(2), strict=True):
            target.writestr(f"{name}.npy", x_train if name == "x_train" else npy(array))
    return content.getvalue()


DEFECTIVE = [
    b"",
    IMAGE_FILE[:15],
    flipped(IMAGE_FILE, 2),  # not of bytes
    idx_bytes(np.zeros((3, 28, 27), np.uint8)),
    flipped(IMAGE_FILE, 4),  # many more images
    flipped(IMAGE_FILE, 7),
    IMAGE_FILE[:-1],
    IMAGE_FILE + b"\0",
]
DEFECTIVE_GZIP = [
    IMAGE_FILE,  # not packed
    PACKED[:-20],
    flipped(PACKED, 12),
    flipped(PACKED, -6),  # the checksum
    PACKED + b"more",
    *map(gzip.compress, DEFECTIVE),
]
SOUND = archive(npy(IMAGES))
DEFECTIVE_NPZ = [
    b"not a zip file",
    npy(IMAGES),  # an array, and no archive
    archive(npy(IMAGES)[:-1]),
    archive(npy(np.array([None, {}]))),  # pickled
    SOUND.replace(b"x_test.npy", b"x_best.npy"),
    SOUND[:-300],
    flipped(SOUND, 60),
]


@pytest.mark.parametrize(
    ("name", "contents", "read"),
    [
        ("images", DEFECTIVE, lambda path: read_idx(path, (28, 28))),
        ("images.gz", DEFECTIVE_GZIP, lambda path: read_idx(path, (28, 28))),
        ("mnist.npz", DEFECTIVE_NPZ, read_npz),
    ],
)
def test_a_defective_file_is_refused_in_one_line(tmp_path, name, contents, read):
    for content in contents:
        path = written(tmp_path / name, content)
        with pytest.raises(DataError, match=str(path)) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@EXAMPLES
@given(content=st.binary(max_size=2000), header=st.booleans(), flips=st.lists(st.integers(0, 400)))
def test_any_bytes_are_what_they_say_or_refused(tmp_path, content, header, flips):
    if header:
        content = b"\0\0\x08\x01" + struct.pack(">I", len(content)) + content
    files = {"labels": content, "labels.gz": flipped(gzip.compress(content), *flips)}
    for name, file in files.items():
        with contextlib.suppress(DataError):
            assert idx_bytes(read_idx(written(tmp_path / name, file), ())) == content


@EXAMPLES
@given(content=st.binary(max_size=400), flips=st.lists(st.integers(0, 10**6), max_size=8))
def test_any_archive_gives_arrays_or_is_refused(tmp_path, content, flips):
    npy_header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content
    for file in (flipped(SOUND, *flips), archive(npy_header)):
        with contextlib.suppress(DataError):
            found = read_npz(written(tmp_path / "mnist.npz", file))
            assert all(isinstance(array, np.ndarray) for array in found)


@pytest.mark.slow
def test_a_minute_of_guided_files_finds_nothing():
    pytest.importorskip("atheris")
    script = pathlib.Path(__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, str(script), "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr  # libFuzzer's last line: how many files
