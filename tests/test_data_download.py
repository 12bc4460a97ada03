"""A file gets its name only when it is the published one, whatever a mirror or the network does."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
from data_mirror import closed_port, digits, gz_files, mirrors, publish, silent_server, write

from trainer.data import download
from trainer.data.catalog import FILE_NAMES
from trainer.errors import DataError, NetworkError

FILES = gz_files(digits(1, train=400))
IMAGES, *_, LAST = FILES  # the first has some 300 kB


def fetch(directory: pathlib.Path, *urls: str, read_timeout_s: float = 30.0) -> list[str]:
    """Fetches into a directory and returns the messages."""
    messages: list[str] = []
    published = publish(FILES, list(urls))
    download.fetch(directory, FILE_NAMES, published, messages.append, read_timeout_s=read_timeout_s)
    return messages


def fetch_in_process(directory: pathlib.Path, url: str) -> subprocess.Popen:
    """Starts another Python that does the same."""
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_data_download as t;"
        "t.fetch(pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    arguments = [os.path.dirname(__file__), str(directory), url]
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)


def assert_complete(directory: pathlib.Path) -> None:
    """All files are there as published and for everyone to read."""
    for name, content in FILES.items():
        assert (directory / name).read_bytes() == content
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o644


def test_the_files_arrive_as_published_and_are_fetched_again_only_if_defective(tmp_path):
    directory = tmp_path / "new" / "directory"
    with mirrors(FILES) as [mirror]:
        [line] = fetch(directory, mirror.url)
        assert str(directory) in line
        assert_complete(directory)
        fetch(directory, mirror.url)
        assert mirror.gets == list(FILES)
        write(directory, {IMAGES: b"defective"})
        fetch(directory, mirror.url)
        assert mirror.gets == [*FILES, IMAGES]
        assert_complete(directory)


@pytest.mark.parametrize("fault", ["404", "503", "html", "cuts", "stalls"])
def test_the_next_mirror_makes_up_for_one_that_fails(tmp_path, fault):
    with mirrors(FILES, FILES) as [bad, good]:
        bad.faults = {LAST: fault}
        # Ten times what loopback needs, and a stall must be waited out twice.
        fetch(tmp_path, closed_port(), bad.url, good.url, read_timeout_s=2)
        assert_complete(tmp_path)
        assert good.gets == [LAST]


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (["html", "404"], DataError),
        (["503", "404"], NetworkError),
        (["html", "cuts"], NetworkError),
    ],
)
def test_the_error_names_mirrors_and_says_whether_another_try_helps(tmp_path, faults, error):
    with mirrors(FILES, FILES) as servers:
        for mirror, fault in zip(servers, faults, strict=True):
            mirror.faults = {IMAGES: fault}
        with pytest.raises(error) as caught:
            fetch(tmp_path, *(mirror.url for mirror in servers))
        assert all(mirror.url in str(caught.value) for mirror in servers)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {".download.lock"}


def test_without_a_network_it_gives_up_within_seconds(tmp_path, monkeypatch):
    # A host of many addresses behind a firewall: the client would try each for half a minute.
    look_up = socket.getaddrinfo

    def many(host, *more, **options):
        return look_up("127.0.0.1", *more, **options) * (16 if host == "many.test" else 1)

    monkeypatch.setattr(socket, "getaddrinfo", many)
    with silent_server() as url:
        start = time.monotonic()
        with pytest.raises(NetworkError):
            fetch(tmp_path, url.replace("127.0.0.1", "many.test"), closed_port())
        assert time.monotonic() - start < 15


def test_processes_that_start_together_download_once(tmp_path):
    with mirrors(FILES) as [mirror]:
        processes = [fetch_in_process(tmp_path, mirror.url) for _ in range(3)]
        messages = [process.communicate(timeout=120)[1] for process in processes]
        assert messages == [b""] * 3  # no bar in a log
        assert_complete(tmp_path)
        assert sorted(mirror.gets) == sorted(FILES)


def test_a_killed_download_leaves_no_half_file_under_a_final_name(tmp_path):
    with mirrors(FILES) as [mirror]:
        mirror.faults = {IMAGES: ["stalls", "cuts"]}  # after a cut the mirror is asked again
        process = fetch_in_process(tmp_path, mirror.url)
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not list(tmp_path.glob("*.gz"))
        fetch(tmp_path, mirror.url)
        assert_complete(tmp_path)
