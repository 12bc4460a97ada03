"""Whatever is read is an error of the contract, in one line, or what the bytes say."""

from __future__ import annotations

import contextlib
import json
import pathlib
import struct
import time

import numpy as np
import pytest
from data_mirror import idx_bytes
from faults import mutants, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.cluster import devices as distribution
from trainer.config import Config
from trainer.data import idx
from trainer.errors import DataError, UsageError
from trainer.process import command_line

MUTANTS = 100

# A directory that all examples of a property write over is what is wanted here.
EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def rows() -> dict[str, table.Row]:
    """What came of mutants of each format; all with another seed each time, which is told."""
    seed = time.time_ns() % 100_000
    print(f"seed {seed}")
    found = mutants.mutants(None, MUTANTS, seed, *mutants.FORMATS)
    return dict(zip(mutants.FORMATS, found, strict=True))


@pytest.mark.parametrize("format", mutants.FORMATS)
def test_mutants_are_refused_in_one_line_or_read_as_they_say(
    rows: dict[str, table.Row], format: str
) -> None:
    assert rows[format].wrong == ()
    assert rows[format].tries == MUTANTS


@EXAMPLES
@given(content=st.binary(max_size=64))
def test_any_bytes_are_no_labels_or_the_labels_they_say(
    tmp_path: pathlib.Path, content: bytes
) -> None:
    path = tmp_path / "labels"
    for header in (b"", b"\0\0\x08\x01", b"\0\0\x08\x01" + struct.pack(">I", len(content))):
        path.write_bytes(header + content)
        with contextlib.suppress(DataError):
            assert idx_bytes(idx.read_labels(path)) == header + content


@EXAMPLES
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=300))
def test_labels_come_back_as_written(tmp_path: pathlib.Path, labels: list[int]) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.array(labels, np.uint8)))
    assert idx.read_labels(path).tolist() == labels


@EXAMPLES
@given(value=VALUES, cluster=VALUES, task=VALUES)
def test_any_json_is_a_cluster_or_refused(value: object, cluster: object, task: object) -> None:
    for anything in (value, {"cluster": cluster, "task": task}, {"cluster": {"worker": cluster}}):
        with contextlib.suppress(UsageError):
            found = distribution.cluster_from_environment({"TF_CONFIG": json.dumps(anything)})
            assert 0 <= found.index < len(found.workers)


@EXAMPLES
@given(name=st.sampled_from(sorted(Config.__dataclass_fields__)), value=VALUES)
def test_no_recorded_value_breaks_the_comparison_with_a_run(name: str, value: object) -> None:
    config = Config().resolved()
    found = config.differences({**config.to_dict(), name: value})
    assert len(found) <= 1


@EXAMPLES
@given(text=st.text())
def test_any_text_is_printed_on_one_line_and_moves_no_cursor(text: str) -> None:
    shown = command_line.printable(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
