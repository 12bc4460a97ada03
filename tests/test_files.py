"""Whole files or none, locally and through `tf.io.gfile`."""

import contextlib
import errno
import os
import pathlib
import re
import uuid

import pytest
import tensorflow as tf

from trainer.run import files


@pytest.fixture(params=["local", "ram"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A directory to be made, as a local path and as one that only `tf.io.gfile` reads."""
    return str(tmp_path / "run") if request.param == "local" else f"ram://{uuid.uuid4().hex}"


def test_what_is_written_is_read_back(place: str) -> None:
    path = files.join(place, "a.txt")
    assert files.read_text(path) is None
    assert files.names_in(place) == []
    for text in ("größer\n", "smaller\n"):
        files.write_text(path, text)
        assert files.read_text(path) == text
    assert files.names_in(place) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(place: str) -> None:
    path = files.join(place, "a.txt")
    files.write_text(path, "old")
    with contextlib.suppress(ZeroDivisionError), files.replacing(path) as temporary:
        files.write_text(temporary, "half")
        raise ZeroDivisionError
    with (
        pytest.raises((OSError, tf.errors.OpError)),
        files.replacing(path, ("", ".b")) as temporary,
    ):
        files.write_text(temporary + ".b", "one of two")
    assert files.read_text(path) == "old"
    assert files.names_in(place) == ["a.txt"]


def test_several_files_of_one_name_appear_only_when_all_are_written(place: str) -> None:
    with files.replacing(files.join(place, "step-1"), (".data", ".index")) as temporary:
        for ending in (".index", ".data"):
            files.write_text(temporary + ending, ending)
            assert not any(name.startswith("step") for name in files.names_in(place))
    assert files.names_in(place) == ["step-1.data", "step-1.index"]


def test_a_whole_directory_takes_the_place_of_another(place: str) -> None:
    path = files.join(place, "10")
    for content in ("old", "new"):
        with files.replacing(path) as temporary:
            files.write_text(files.join(temporary, "top"), content)
            files.write_text(files.join(temporary, "variables", content), content)
    assert files.names_in(place) == ["10"]
    assert files.names_in(path) == ["top", "variables"]
    assert files.names_in(files.join(path, "variables")) == ["new"]
    assert files.read_text(files.join(path, "variables", "new")) == "new"


def test_leftovers_are_removed_and_nothing_else(place: str) -> None:
    names = ["metrics.json", "x.partial-12345678-x", ".partial-123-x", "partial-12345678-x"]
    for name in (*names, ".partial-0123abcd-metrics.json", ".partial-89abcdef-30/variables/a"):
        files.write_text(files.join(place, name), "mine")
    files.remove_leftovers(place)
    assert files.names_in(place) == sorted(names)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_errors_of_a_directory_become_one_line_and_no_others(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="space") as full, open("/dev/full", "wb") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(OSError, match="No such") as missing:
        (tmp_path / "none" / "file").write_text("")
    with pytest.raises(tf.errors.OpError) as unread:
        tf.io.gfile.GFile(f"{tmp_path}/none/file").read()
    for error in (full, missing, unread):
        found = files.failure(error.value, str(tmp_path))
        assert re.match(f"cannot write in {tmp_path}: No s[a-z ]*; ", str(found))
        assert found.exit_code == 1
    elsewhere = (missing.value, unread.value, OSError(errno.ECONNREFUSED, "refused"))
    assert [files.failure(error, "/another") for error in elsewhere] == [None] * 3
