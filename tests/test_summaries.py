"""What TensorBoard shows: a real server reads every curve, picture and comparison of a run."""

from __future__ import annotations

import contextlib
import json
import pathlib
import urllib.request
from collections.abc import Iterator

import conftest
import numpy as np
import pytest
import runs
import tensorflow as tf

from trainer.results.event_files import Summaries, digit_grid, keep_events


@pytest.fixture(scope="module")
def tensorboard(trained: conftest.Run) -> Iterator[str]:
    """The address of a real TensorBoard on the runs' directory."""
    from tensorboard import default, program

    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(
        logdir=str(trained.directory), host="127.0.0.1", port=0, load_fast="false", bind_all=False
    )
    url = board.launch()
    yield url
    with contextlib.suppress(AttributeError):
        board._server.shutdown()


def get(url: str, path: str, body: object = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/data/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def run_name(part: str) -> str:
    return f"tensorboard/{part}"


def test_tensorboard_shows_the_curves_of_every_part(tensorboard: str) -> None:
    tags = get(tensorboard, "plugin/scalars/tags")
    curves = {run: set(found) for run, found in tags.items()}
    assert curves[run_name("train")] == {
        *("loss", "accuracy", "gradient_norm", "learning_rate"),
        *("examples_per_second", "input_wait"),
    }
    by_class = {f"class_accuracy/{digit}" for digit in range(10)}
    assert curves[run_name("validation")] == {"loss", "accuracy"} | by_class
    assert curves[run_name("test")] == {"loss", "accuracy"} | by_class


def test_tensorboard_shows_digits_configuration_and_graph(tensorboard: str) -> None:
    train = run_name("train")
    assert set(get(tensorboard, "plugin/images/tags")[train]) == {"input_digits"}
    assert set(get(tensorboard, "plugin/text/tags")[train]) == {
        *("configuration", "environment", "model")
    }
    text = get(tensorboard, f"plugin/text/text?run={train}&tag=configuration")[0]["text"]
    for flag in ("batch_size", "learning_rate", "seed", "augment"):
        assert f"<td>{flag}</td>" in text
    graphs = get(tensorboard, "plugin/graphs/info")[train]
    assert graphs["run_graph"]


def test_tensorboard_compares_runs_by_their_hyperparameters(
    tensorboard: str, trained: conftest.Run
) -> None:
    wanted = {"experimentName": "", "startIndex": 0, "sliceSize": 10, "allowedStatuses": []}
    experiment = get(tensorboard, "plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"model", "batch_size", "learning_rate", "seed", "label_smoothing"} <= names
    wanted |= {
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [
            *({"hparam": name, "includeInResult": True} for name in sorted(names)),
            *({"metric": m["name"], "includeInResult": True} for m in experiment["metricInfos"]),
        ],
    }
    (group,) = get(tensorboard, "plugin/hparams/session_groups", wanted)["sessionGroups"]
    assert group["hparams"]["batch_size"] == 50
    values = {(m["name"]["group"], m["name"]["tag"]): m["value"] for m in group["metricValues"]}
    found = runs.metrics(trained.directory)
    assert values[("test", "accuracy")] == pytest.approx(found["test_accuracy"], abs=1e-6)
    assert values[("validation", "accuracy")] == pytest.approx(found["validation_accuracy"])


def test_curves_have_their_points_where_the_run_has(trained: conftest.Run) -> None:
    board = trained.directory / "tensorboard"
    assert runs.scalar_steps(board / "train", "loss") == [4, 8, 10, 12, 16, 20, 24, 28, 30]
    assert runs.scalar_steps(board / "validation", "accuracy") == [10, 20, 30]
    assert runs.scalar_steps(board / "test", "accuracy") == [30]
    rates = [
        float(tf.make_ndarray(value.tensor))
        for event in runs.events(board / "train")
        for value in event.summary.value
        if value.tag == "learning_rate"
    ]
    rows = runs.history(trained.directory)
    assert rates[2] == pytest.approx(float(rows[0]["learning_rate"]))


def test_the_grid_of_digits_is_what_the_model_sees(trained: conftest.Run) -> None:
    (value,) = (
        value
        for event in runs.events(trained.directory / "tensorboard" / "train")
        for value in event.summary.value
        if value.tag == "input_digits"
    )
    width, height, image = tf.make_ndarray(value.tensor)[:3]
    grid = tf.io.decode_png(image).numpy()[..., 0]
    assert (int(width), int(height)) == (16 * 29 + 1, 8 * 29 + 1) == grid.shape[::-1]
    assert set(grid[::29].ravel()) == {64}
    assert grid.std() > 20


def test_a_grid_holds_every_digit_in_its_place() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None] + np.zeros((5, 28, 28), np.uint8)
    grid = digit_grid(images, columns=3)
    assert grid.shape == (59, 88)
    assert [grid[1 + 29 * (n // 3), 1 + 29 * (n % 3)] for n in range(5)] == [0, 1, 2, 3, 4]
    assert grid[30, 59] == 64


def written(directory: pathlib.Path, steps: range) -> Summaries:
    summaries = Summaries(str(directory), steps.start - 1)
    for step in steps:
        summaries.scalars("train", {"loss": 1 / (step + 1)}, step)
    summaries.flush()
    return summaries


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: pathlib.Path) -> None:
    written(tmp_path, range(0, 10)).close()
    written(tmp_path, range(6, 12)).close()
    assert runs.scalar_steps(tmp_path / "train", "loss") == list(range(12))


def test_a_run_that_starts_over_drops_everything(tmp_path: pathlib.Path) -> None:
    written(tmp_path, range(0, 10)).close()
    written(tmp_path, range(0, 3)).close()
    assert runs.scalar_steps(tmp_path / "train", "loss") == [0, 1, 2]


@pytest.mark.parametrize("lost", [1, 11, 12, 13, 40])
def test_a_file_that_a_kill_cut_short_keeps_its_whole_records(
    tmp_path: pathlib.Path, lost: int
) -> None:
    written(tmp_path, range(0, 10)).close()
    (path,) = (tmp_path / "train").iterdir()
    path.write_bytes(path.read_bytes()[:-lost])
    keep_events(str(tmp_path / "train"), 100)
    steps = runs.scalar_steps(tmp_path / "train", "loss")
    assert steps == list(range(9 if lost < 60 else 8))
    assert len(list(tf.data.TFRecordDataset([str(path)]))) == 10  # DataLossError if one is cut


def test_files_that_are_no_event_files_are_left_alone(tmp_path: pathlib.Path) -> None:
    written(tmp_path, range(0, 3)).close()
    (tmp_path / "train" / "notes.txt").write_text("mine")
    (tmp_path / "train" / "plugins").mkdir()
    keep_events(str(tmp_path / "train"), -1)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["notes.txt", "plugins"]


def test_a_profile_of_the_steps_asked_for_is_there(
    server: runs.TaskServer, tiny_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = tmp_path / "run"
    flags = (*runs.FLAGS, f"--data_dir={tiny_dir}", f"--model_dir={directory}", "--epochs=1")
    server(*flags, "--jit_compile=off", "--profile=3,6")
    profile = directory / "tensorboard" / "train" / "plugins" / "profile"
    assert list(profile.glob("*/*.xplane.pb"))
    steps = runs.scalar_steps(directory / "tensorboard" / "train", "loss")
    assert steps == [2, 4, 6, 8, 10]
