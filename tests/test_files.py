"""Whole files or none, locally and through `tf.io.gfile`."""

import errno
import os
import pathlib
import re
import signal
import uuid

import pytest
import runs
import tensorflow as tf

from trainer.run import files


@pytest.fixture(params=["local", "ram"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """An empty directory, as a local path and as one that only `tf.io.gfile` reads."""
    path = str(tmp_path / "run") if request.param == "local" else f"ram://{uuid.uuid4().hex}"
    files.make_directory(path)
    return path


def test_what_is_written_is_read_back(place: str) -> None:
    path = files.join(place, "a.txt")
    assert files.read_text(path) is None
    assert not files.exists(path)
    files.write_text(path, "größer\n")
    files.write_text(path, "smaller\n")
    assert files.read_text(path) == "smaller\n"
    assert files.exists(path)
    assert files.names_in(place) == ["a.txt"]
    assert files.names_in(files.join(place, "none")) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(place: str) -> None:
    path = files.join(place, "a.txt")
    files.write_text(path, "old")

    def write(temporary: str) -> None:
        files.write_text(temporary, "half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        write(temporary)
    assert files.read_text(path) == "old"
    assert files.names_in(place) == ["a.txt"]


def test_several_files_of_one_name_appear_only_when_all_are_written(place: str) -> None:
    path = files.join(place, "step-1")
    with files.replacing(path, (".data", ".index")) as temporary:
        for ending in (".index", ".data"):
            files.write_text(temporary + ending, ending)
            assert not files.exists(path + ".data")
    assert files.names_in(place) == ["step-1.data", "step-1.index"]
    lacking = pytest.raises((FileNotFoundError, tf.errors.NotFoundError))
    with lacking, files.replacing(path, (".a", ".b")) as temporary:
        files.write_text(temporary + ".a", "one of two")
    assert not [name for name in files.names_in(place) if "partial" in name]


def test_a_whole_directory_takes_the_place_of_another(place: str) -> None:
    path = files.join(place, "10")
    for content in ("old", "new"):
        with files.replacing(path) as temporary:
            files.make_directory(files.join(temporary, "variables"))
            files.write_text(files.join(temporary, "variables", content), content)
    assert files.names_in(path) == ["variables"]
    assert files.names_in(files.join(path, "variables")) == ["new"]
    assert files.read_text(files.join(path, "variables", "new")) == "new"
    assert files.names_in(place) == ["10"]


def test_leftovers_are_removed_and_nothing_else(place: str) -> None:
    names = ["metrics.json", "x.partial-12345678-x", ".partial-123-x", "partial-12345678-x"]
    for name in names:
        files.write_text(files.join(place, name), "mine")
    files.write_text(files.join(place, ".partial-0123abcd-metrics.json"), "left")
    files.make_directory(files.join(place, ".partial-89abcdef-30", "variables"))
    files.remove_leftovers(place)
    assert files.names_in(place) == sorted(names)


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    process = runs.python(
        """
        import os, signal, sys
        from trainer.run import files
        with files.replacing(sys.argv[1]) as temporary:
            with open(temporary, "w") as file:
                file.write("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        args=[str(path)],
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    files.remove_leftovers(str(tmp_path))
    assert os.listdir(tmp_path) == ["a.txt"]


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
