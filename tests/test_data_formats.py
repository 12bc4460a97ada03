"""A data file is exactly what it claims to be, or an error that names the file."""

from __future__ import annotations

import contextlib
import gzip
import io
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from data_mirror import digits, idx_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data import idx, npz
from trainer.errors import DataError

IMAGES, LABELS = digits(1)[:2]
IMAGE_FILE = idx_bytes(IMAGES)
PACKED = gzip.compress(IMAGE_FILE)
SHAPE = (28, 28)

# All examples of a property write over the same file.
EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(path: pathlib.Path, content: bytes) -> pathlib.Path:
    path.write_bytes(content)
    return path


def stating(count: int) -> bytes:
    """The image file with another number of images in its header."""
    return IMAGE_FILE[:4] + count.to_bytes(4, "big") + IMAGE_FILE[8:]


def flipped(content: bytes, index: int) -> bytes:
    return content[:index] + bytes([content[index] ^ 0xFF]) + content[index + 1 :]


def test_arrays_come_back_as_written(tmp_path):
    for array, shape in ((IMAGES, SHAPE), (LABELS, ())):
        for pack, name in ((bytes, "file"), (gzip.compress, "file.gz")):
            found = idx.read(written(tmp_path / name, pack(idx_bytes(array))), shape)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, array)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "mnist.npz", **dict(zip(npz.MEMBERS, digits(2), strict=True)))
        for found, saved in zip(npz.read(tmp_path / "mnist.npz"), digits(2), strict=True):
            np.testing.assert_array_equal(found, saved)


DEFECTIVE = [
    b"",
    IMAGE_FILE[:15],
    idx_bytes(LABELS) + bytes(100),
    idx_bytes(IMAGES, magic=0x00000D03),  # floats
    idx_bytes(np.zeros((3, 28, 27), np.uint8)),
    stating(2**32 - 1),
    stating(13),
    stating(11),
    IMAGE_FILE[:-1],
    IMAGE_FILE + b"\0",
]
DEFECTIVE_GZIP = [
    IMAGE_FILE,  # not packed
    PACKED[:-20],
    PACKED[:-3],
    flipped(PACKED, 12),
    flipped(PACKED, -6),  # the checksum
    PACKED + b"more",
    *map(gzip.compress, DEFECTIVE),
]


@pytest.mark.parametrize(
    ("name", "contents"), [("images", DEFECTIVE), ("images.gz", DEFECTIVE_GZIP)]
)
def test_defective_images_are_refused_in_one_line(tmp_path, name, contents):
    for content in contents:
        path = written(tmp_path / name, content)
        with pytest.raises(DataError, match=str(path)) as caught:
            idx.read(path, SHAPE)
        assert "\n" not in str(caught.value)


def npy(shape: tuple[int, ...], data: bytes, descr: str = "|u1") -> bytes:
    content = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + data


def archive(x_train: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive whose member `x_train.npy` has the content given."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as target:
        for name, array in zip(npz.MEMBERS, digits(2), strict=True):
            sound = npy(array.shape, array.tobytes())
            target.writestr(f"{name}.npy", x_train if name == "x_train" else sound)
    return content.getvalue()


MEMBER = npy((12, 28, 28), bytes(12 * 784))
SOUND = archive(MEMBER)
HOSTILE_ARCHIVES = [
    b"",
    b"not a zip file",
    npy((2,), b"ab"),  # an array, and no archive
    archive(b"not an array"),
    archive(b"\x93NUMPY\x01\x00\x10\x00((((((((((((((((" + bytes(100)),
    archive(b"\x93NUMPY\x02\x00\x00\x00\x00\x10" + bytes(1000)),
    archive(npy((12, 28, 28), bytes(100))),
    archive(npy((10**15, 28, 28), b"")),
    archive(npy((1_000_000_000,), bytes(1_000_000), "|V1000")),
    archive(npy((2,), pickle.dumps(np.array([None, {}])), "|O")),
    archive(MEMBER, zipfile.ZIP_LZMA),
    SOUND.replace(struct.pack("<I", len(MEMBER)), struct.pack("<I", 2 << 30)),
    SOUND.replace(b"x_test.npy", b"x_best.npy"),
    SOUND[:-300],
    flipped(SOUND, 60),
]


def test_a_hostile_archive_is_refused_in_one_line(tmp_path):
    for content in HOSTILE_ARCHIVES:
        path = written(tmp_path / "mnist.npz", content)
        with pytest.raises(DataError, match=str(path)) as caught:
            npz.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_hostile_files_cost_no_memory(tmp_path):
    files = [
        written(tmp_path / "more.gz", gzip.compress(IMAGE_FILE + bytes(200_000_000), 1)),
        written(tmp_path / "less.gz", gzip.compress(stating(1_300_000))),
        written(tmp_path / "plain", stating(1_300_000)),
        *(written(tmp_path / f"{i}.npz", file) for i, file in enumerate(HOSTILE_ARCHIVES)),
    ]
    program = (
        "import re, sys; from trainer.data import idx, npz\n"
        "from trainer.errors import DataError\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    try: npz.read(path) if path.endswith('npz') else idx.read(path, (28, 28))\n"
        "    except DataError: pass\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True)
    assert int(done.stdout) < 50_000, done.stderr  # kB


@EXAMPLES
@given(content=st.binary(max_size=2000), header=st.booleans(), flips=st.lists(st.integers(0, 400)))
def test_any_bytes_are_what_they_say_or_refused(tmp_path, content, header, flips):
    if header:
        content = b"\0\0\x08\x01" + struct.pack(">I", len(content)) + content
    path = written(tmp_path / "labels", content)
    with contextlib.suppress(DataError):
        assert idx_bytes(idx.read(path, ())) == content
    packed = gzip.compress(content)
    for index in flips:
        packed = flipped(packed, index % len(packed))
    path = written(tmp_path / "labels.gz", packed)
    with contextlib.suppress(DataError):
        assert idx_bytes(idx.read(path, ())) == content


@EXAMPLES
@given(content=st.binary(max_size=400), flips=st.lists(st.integers(0, 10**6), max_size=8))
def test_any_archive_gives_arrays_or_is_refused(tmp_path, content, flips):
    damaged = SOUND
    for index in flips:
        damaged = flipped(damaged, index % len(damaged))
    npy_header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content
    for candidate in (content, damaged, archive(content), archive(npy_header)):
        path = written(tmp_path / "mnist.npz", candidate)
        with contextlib.suppress(DataError):
            assert all(isinstance(array, np.ndarray) for array in npz.read(path))
