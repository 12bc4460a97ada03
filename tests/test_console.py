"""What a run prints: a bar on a terminal only; a reader that leaves does not end the run."""

import io
import os
import pty
import re

import pytest

from trainer.process.console import Console


def test_a_terminal_shows_a_bar_that_lines_replace_and_that_never_wraps(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    reader, writer = pty.openpty()
    with open(writer, "w", encoding="utf-8") as out:
        console = Console(out, out)
        console.progress(0.25, "epoch 1/4  loss 0.5")
        console.progress(0.5, "fits with a short bar".ljust(51, ".") + "!")
        console.line("epoch 1/4")
        console.progress(1.0, "x" * 300)
        console.warn("warning: something")
        console.progress(0.5, "half")
        console.clear()
        console.clear()
        out.write("of others\n")
        out.flush()
        written = b""
        while not written.endswith(b"others\r\n"):
            written += os.read(reader, 100_000)
    os.close(reader)
    content = written.decode()
    assert "━━━━━━╸" in content
    assert re.search(r"━+╸ +fits with a short bar\.+!", content)
    assert "\r\x1b[2Kepoch 1/4\r\n" in content
    assert "\r\x1b[2Kwarning: something\r\n" in content
    assert content.endswith(" half\r\x1b[2Kof others\r\n")
    assert (
        max(map(len, content.replace("\r\x1b[2K", "\n").splitlines())) == 57
    )  # a ^C fits behind it


@pytest.mark.parametrize(("quiet", "printed"), [(False, "one\n\n"), (True, "")])
def test_a_log_gets_lines_only_and_a_quiet_one_warnings_only(quiet: bool, printed: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out=out, err=err, quiet=quiet)
    console.progress(0.5, "half")
    console.line("one")
    console.line()
    console.warn("two")
    assert (out.getvalue(), err.getvalue()) == (printed, "two\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("reason", ["its reader has left", "the disk is full"])
def test_output_that_cannot_be_written_does_not_end_the_run(reason: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    number = writer if reason == "its reader has left" else os.open("/dev/full", os.O_WRONLY)
    out, err = os.fdopen(number, "w", closefd=False), io.StringIO()
    console = Console(out, err)
    console.line("not read")
    console.line("nor this")
    console.warn("but this")
    assert err.getvalue() == "but this\n"
