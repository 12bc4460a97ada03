"""A data file is exactly what it claims to be, or an error that names the file and the defect."""

from __future__ import annotations

import gzip
import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from data_mirror import digits, idx_bytes

from trainer.data import idx, npz
from trainer.errors import DataError

IMAGES, LABELS = digits(1)[:2]
IMAGE_FILE = idx_bytes(IMAGES)


def lying(count: int) -> bytes:
    """The image file with another number of images in its header."""
    return IMAGE_FILE[:4] + count.to_bytes(4, "big") + IMAGE_FILE[8:]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_images_and_labels_come_back_as_written(tmp_path, packed):
    pack, ending = (gzip.compress, ".gz") if packed else (bytes, "")
    (tmp_path / f"images{ending}").write_bytes(pack(IMAGE_FILE))
    (tmp_path / f"labels{ending}").write_bytes(pack(idx_bytes(LABELS)))
    images = idx.read_images(tmp_path / f"images{ending}")
    labels = idx.read_labels(tmp_path / f"labels{ending}")
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"", "within the IDX header"),
        (IMAGE_FILE[:15], "within the IDX header"),
        (idx_bytes(LABELS) + bytes(100), "magic number is 0x00000801, not 0x00000803"),
        (idx_bytes(IMAGES, magic=0x00000D03), "magic number is 0x00000d03"),
        (idx_bytes(np.zeros((3, 28, 27), np.uint8)), r"shape \[3, 28, 27\]"),
        (lying(0)[:16], "0 examples"),
        (lying(2**32 - 1), "4,294,967,295 examples"),
        (lying(13), "promises 10,208"),
        (lying(11), "8,640"),
        (IMAGE_FILE[:-1], "promises 9,424"),
        (IMAGE_FILE + b"\0", "9,424"),
    ],
    ids=[
        "empty",
        "cut header",
        "labels",
        "floats",
        "not 28x28",
        "none",
        "absurd count",
        "count too high",
        "count too low",
        "byte missing",
        "byte too many",
    ],
)
def test_defective_images_are_refused(tmp_path, content, defect, packed):
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=defect) as caught:
        idx.read_images(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_above_nine_is_refused(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.array([9, 0, 10, 3], np.uint8)))
    with pytest.raises(DataError, match="label 10 at index 2"):
        idx.read_labels(path)


def flipped(content: bytes, index: int) -> bytes:
    return content[:index] + bytes([content[index] ^ 0xFF]) + content[index + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        IMAGE_FILE,
        gzip.compress(IMAGE_FILE)[:-20],
        gzip.compress(IMAGE_FILE)[:-3],
        flipped(gzip.compress(IMAGE_FILE), 12),
        flipped(gzip.compress(IMAGE_FILE), -6),  # the checksum
        gzip.compress(IMAGE_FILE) + b"more",
    ],
    ids=[
        "not gzip",
        "cut in the data",
        "cut in the trailer",
        "damaged",
        "checksum",
        "garbage after",
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="gzip") as caught:
        idx.read_images(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(IMAGE_FILE + bytes(200_000_000), compresslevel=1),
        gzip.compress(lying(1_000_000)),
    ],
    ids=["more data than promised", "more promised than data"],
)
def test_a_gzip_bomb_costs_no_memory(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            idx.read_images(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_what_is_not_a_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(DataError, match=f"{name} is not a regular file"):
            idx.read_images(tmp_path / name)


def arrays(**changes) -> dict[str, np.ndarray]:
    """The members of a sound archive, with changes; None leaves one out."""
    members = dict(zip(npz.MEMBERS, digits(2), strict=True)) | changes
    return {name: array for name, array in members.items() if array is not None}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_comes_back_as_saved(tmp_path, save):
    save(tmp_path / "mnist.npz", **arrays())
    for read, written in zip(npz.read(tmp_path / "mnist.npz"), digits(2), strict=True):
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize(
    ("changes", "defect"),
    [
        ({"y_test": None}, r"no y_test\.npy"),
        ({"x_train": np.zeros((12, 28, 28), np.float32)}, "float32, not uint8"),
        ({"x_train": np.zeros((12, 784), np.uint8)}, r"shape \[12, 784\]"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8)}, "0 examples"),
        ({"x_test": np.asfortranarray(np.zeros((5, 28, 28), np.uint8))}, "Fortran order"),
        ({"y_train": np.zeros(12, np.int64)}, r"labels are int64 \[12\]"),
        ({"y_train": np.zeros((12, 1), np.uint8)}, r"labels are uint8 \[12, 1\]"),
        ({"y_train": np.full(12, 11, np.uint8)}, "label 11 at index 0"),
        ({"y_train": np.array([{"an": "object"}])}, "labels are object"),
    ],
)
def test_a_defective_archive_is_refused(tmp_path, changes, defect):
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(DataError, match=defect) as caught:
        npz.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def archive(x_train: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive whose member `x_train.npy` has the content given."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as target:
        for name, array in arrays().items():
            member = io.BytesIO()
            np.save(member, array)
            target.writestr(f"{name}.npy", x_train if name == "x_train" else member.getvalue())
    return content.getvalue()


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    content = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip file",
        archive(b"not an array"),
        archive(b"\x93NUMPY\x01\x00\x10\x00((((((((((((((((" + bytes(100)),
        archive(b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65_535),
        archive(b"\x93NUMPY\x02\x00\x00\x00\x00\x10" + bytes(200_000_000)),
        archive(npy((12, 28, 28), bytes(100))),
        archive(npy((1_000_000, 28, 28), bytes(100))),
        archive(npy((12, 28, 28), bytes(200_000_000))),
        archive(npy((10**15, 28, 28), b"")),
        archive(npy((12, 28, 28), bytes(12 * 784)), zipfile.ZIP_LZMA),
        archive(npy((12, 28, 28), bytes(12 * 784)))[:-300],
        flipped(archive(npy((12, 28, 28), bytes(12 * 784))), 60),
    ],
    ids=[
        "empty",
        "not a zip",
        "not an array",
        "header that is no Python",
        "long header",
        "huge header",
        "too short",
        "lying header",
        "bomb",
        "absurd shape",
        "unusual packing",
        "cut off",
        "damaged",
    ],
)
def test_a_damaged_or_hostile_archive_is_refused_and_costs_no_memory(tmp_path, content):
    path = tmp_path / "mnist.npz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            npz.read(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
