"""Whole files or none, locally and through `tf.io.gfile`."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import uuid

import pytest
import runs

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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(place: str) -> None:
    path = files.join(place, "a.txt")
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        files.write_text(temporary, str(1 / 0))
    assert files.read_text(path) == "old"
    assert files.names_in(place) == ["a.txt"]


def test_a_whole_directory_takes_the_place_of_another(place: str) -> None:
    path = files.join(place, "10")
    for content in ("old", "new"):
        with files.replacing(path) as temporary:
            files.make_directory(temporary)
            files.make_directory(files.join(temporary, "variables"))
            files.write_text(files.join(temporary, "variables", content), content)
    assert files.names_in(path) == ["variables"]
    assert files.names_in(files.join(path, "variables")) == ["new"]
    assert files.read_text(files.join(path, "variables", "new")) == "new"
    assert files.names_in(place) == ["10"]


def test_names_in_a_directory_that_is_not_there_are_none(place: str) -> None:
    assert files.names_in(files.join(place, "none")) == []


def test_remove_takes_files_and_directories(place: str) -> None:
    files.make_directory(files.join(place, "full", "deep"))
    files.write_text(files.join(place, "full", "deep", "file"), "x")
    files.write_text(files.join(place, "file"), "x")
    files.remove(files.join(place, "full"))
    files.remove(files.join(place, "file"))
    assert files.names_in(place) == []


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
    program = (
        "import os, signal, sys; from trainer import storage\n"
        "with files.replacing(sys.argv[1]) as temporary:\n"
        "    open(temporary, 'w').write('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=runs.ROOT, check=False)
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    files.remove_leftovers(str(tmp_path))
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_to_a_directory_is_removed_and_not_what_it_points_to(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    files.remove(str(tmp_path / "link"))
    assert os.listdir(tmp_path / "data") == ["mine"]
