"""Hostile input of every kind ends in an error of the contract, in one line."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.cluster import devices
from trainer.config import Config
from trainer.errors import UsageError
from trainer.process import command_line

EXAMPLES = settings(max_examples=150, deadline=None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.slow
def test_a_minute_of_guided_files_finds_nothing():
    pytest.importorskip("atheris")
    script = pathlib.Path(__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, str(script), "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr  # libFuzzer's last line: how many files


@EXAMPLES
@given(value=VALUES, cluster=VALUES, task=VALUES)
def test_any_json_is_a_cluster_or_refused(value, cluster, task):
    for anything in (value, {"cluster": cluster, "task": task}, {"cluster": {"worker": cluster}}):
        with contextlib.suppress(UsageError):
            found = devices.cluster_from_environment({"TF_CONFIG": json.dumps(anything)})
            assert 0 <= found.index < len(found.workers)


@EXAMPLES
@given(name=st.sampled_from(sorted(Config.__dataclass_fields__)), value=VALUES)
def test_any_recorded_value_is_at_most_one_difference_from_a_run(name, value):
    config = Config().resolved()
    assert len(config.differences({**config.to_dict(), name: value})) <= 1


@EXAMPLES
@given(text=st.text())
def test_any_text_is_printed_on_one_line_and_moves_no_cursor(text):
    printed = command_line.printable(text)
    assert len(printed.splitlines()) <= 1
    assert "\x1b" not in printed
