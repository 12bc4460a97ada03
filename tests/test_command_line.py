"""What the commands share: flags, `--help`, an error as one line, the exit code."""

import os
import pathlib
import re
import sys

import pytest
import runs
from absl import flags

from trainer.errors import UsageError
from trainer.process import command_line


def parse(*argv: str) -> tuple[list[str], flags.FlagValues]:
    values = flags.FlagValues()
    flags.DEFINE_integer("epochs", 5, "passes", lower_bound=1, upper_bound=99, flag_values=values)
    flags.DEFINE_float("rate", None, "peak of the schedule", flag_values=values)
    flags.DEFINE_enum("model", "mlp", ["mlp", "cnn"], "the network", flag_values=values)
    flags.DEFINE_bool("json", False, "one object a line", flag_values=values)
    return command_line.parse(["program", *argv], values, usage="Trains.\n"), values


def test_flags_set_values_and_the_other_words_come_back(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "my.flags"
    file.write_text("# a comment\n--epochs=7\n--model=cnn\n")
    words, values = parse("a.png", f"--flagfile={file}", "--json", "b.png", "--epochs", "8")
    assert words == ["a.png", "b.png"]
    assert (values.epochs, values.model, values.json, values.rate) == (8, "cnn", True, None)


WRONG = {
    "unknown": ("--epoch=3", "'epoch'"),
    "far too long a name": ("--" + "x" * 5000, "--help"),
    "without its value": ("--epochs", "--epochs"),
    "fraction": ("--epochs=1.5", "--epochs=1.5 is not a valid number"),
    "words": ("--rate=fast", "--rate=fast is not a valid number"),
    "neither true nor false": ("--json=3", "--json=3"),
    "below": ("--epochs=0", "[1, 99]"),
    "missing file": ("--flagfile=no/such.flags", "no/such.flags"),
    "file that is no text": (f"--flagfile={sys.executable}", sys.executable),
    "endless file": ("--flagfile=/dev/zero", "/dev/zero"),
    "several lines": ("--model=a\nb", "mlp|cnn"),
}


@pytest.mark.parametrize(("word", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_flag_is_refused_in_one_line(word: str, named: str) -> None:
    with pytest.raises(UsageError, match=rf"^.*{re.escape(named)}.*\Z"):
        parse(word)


@pytest.mark.parametrize("last", ["pipe", "deep"])
def test_flagfiles_that_absl_would_not_end_to_read_are_refused(tmp_path, last) -> None:
    """A pipe that nobody writes to; 1,500 files, each of which names the next."""
    count = 2 if last == "pipe" else 1500
    for number in range(count):
        (tmp_path / f"{number}").write_text(f"--flagfile={tmp_path}/{number + 1}\n")
    if last == "pipe":
        os.mkfifo(tmp_path / f"{count}")
    with pytest.raises(UsageError, match=rf"--flagfile={tmp_path}/\d+ cannot"):
        parse("--flagfile", f"{tmp_path}/0")


@pytest.mark.parametrize("argv", [["-h"], ["--epochs=0", "--help"]])
def test_help_shows_the_usage_and_every_flag(argv, capsys) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(*argv)
    out = capsys.readouterr().out
    assert out.startswith("Trains.\n")
    for text in ("--epochs", "default: '5'", "mlp|cnn", "--[no]json", "peak of", "--flagfile"):
        assert text in out


ENDS = {
    "fine": ("print('fine')", 0, "fine\n", ""),
    "a code of its own": ("return 7", 7, "", ""),
    "wrong data": ("raise DataError('no\\nlabels')", 3, "", "error: no\\nlabels\n"),
    "asked to stop": ("raise Interrupted('stopped', 15)", 143, "", "stopped\n"),
}


@pytest.mark.parametrize(("body", "code", "out", "err"), ENDS.values(), ids=ENDS)
def test_a_command_ends_with_its_code_and_at_most_one_line(body, code, out, err) -> None:
    done = command(body)
    assert (*done.communicate(), done.returncode) == (out, err, code)


def test_an_unexpected_failure_is_a_traceback_and_exit_code_1() -> None:
    done = command("1 / 0")
    assert "Traceback" in done.communicate()[1]
    assert done.returncode == 1


def test_a_command_whose_reader_leaves_ends_with_141_and_no_word() -> None:
    done = command("[print(i) for i in range(100_000)]")
    done.stdout.readline()
    done.stdout.close()
    assert (done.stderr.read(), done.wait()) == ("", 141)


def command(body: str) -> runs.subprocess.Popen:
    return runs.python(f"""
        from trainer.errors import DataError, Interrupted
        from trainer.process import command_line

        def run(argv):
            {body}
            return 0

        command_line.leave(command_line.main(run))
    """)
