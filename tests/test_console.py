"""What a person reads: a live line on a terminal only, and a run that outlives its reader."""

from __future__ import annotations

import io
import os
import pathlib
import pty
import sys

import pytest

from trainer.process.console import Console, counted


def said_on_a_terminal(*, encoding: str = "utf-8", columns: int = 80) -> str:
    """What a console writes on a pseudo-terminal: progress, a line, progress, a warning."""
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding=encoding) as out:
        console = Console(out=out, err=out)
        console.progress(0.25, "epoch 1/4  loss 0.5")
        console.line("epoch 1/4")
        console.progress(1.0, "x" * 300)
        console.warn("warning: something")
        print("end", file=out, flush=True)
        said = b""
        while not said.endswith(b"end\r\n"):
            said += os.read(ours, 100_000)
    os.close(ours)
    return said.decode().removesuffix("end\r\n")


def test_a_terminal_shows_a_live_line_that_lines_replace() -> None:
    said = said_on_a_terminal()
    assert "━━━━━━╸" in said
    assert "\r\x1b[2Kepoch 1/4\r\n" in said
    assert said.endswith("\r\x1b[2Kwarning: something\r\n")


def test_the_live_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = said_on_a_terminal().replace("\r\x1b[2K", "\n").splitlines()
    assert max(map(len, lines)) == 59


def test_a_terminal_without_unicode_still_shows_everything() -> None:
    said = said_on_a_terminal(encoding="ascii")
    assert "epoch 1/4  loss 0.5" in said
    assert "warning: something" in said


def test_a_log_gets_lines_and_no_control_characters() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out=out, err=err)
    console.progress(0.5, "half")
    console.line("one")
    console.line()
    console.warn("two")
    assert out.getvalue() == "one\n\n"
    assert err.getvalue() == "two\n"


def test_a_quiet_console_only_warns() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out=out, err=err, quiet=True)
    console.line("one")
    console.progress(0.5, "half")
    console.warn("two")
    assert (out.getvalue(), err.getvalue()) == ("", "two\n")


def test_a_reader_that_leaves_does_not_end_the_run() -> None:
    read, written = os.pipe()
    err = io.StringIO()
    with open(written, "w") as out:
        console = Console(out=out, err=err)
        console.line("read")
        os.close(read)
        console.line("not read")
        console.line("nor this")
        console.warn("but this")
    assert err.getvalue() == "but this\n"


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_does_not_end_the_run() -> None:
    with open("/dev/full", "w") as out:
        Console(out=out, err=out).line("lost")
        Console(out=out, err=out).warn("lost")


def test_output_that_was_closed_before_the_start_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python has None for `sys.stdout` then."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console = Console()
    console.line("one")
    console.progress(0.5, "half")
    console.warn("two")


def test_a_name_that_the_encoding_lacks_is_still_shown() -> None:
    content = io.BytesIO()
    with io.TextIOWrapper(content, encoding="ascii") as out:
        Console(out=out).line("run/größe")
        out.flush()
        assert content.getvalue() == b"run/gr??e\n"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 epochs"), (1, "1 epoch"), (1200, "1,200 epochs")]
)
def test_a_number_stands_with_its_noun(count: int, text: str) -> None:
    assert counted(count, "epoch") == text
