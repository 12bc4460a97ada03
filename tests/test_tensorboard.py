"""All that TensorBoard has to show of two runs below one directory, asked of a real server."""

import contextlib
import json
import pathlib
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
import runs
import tensorflow as tf
from tensorboard.plugins.scalar.summary import scalar_pb

from trainer.results.tensorboard import EventFiles, keep_events

STEPS = {"train": [4, 8, 10, 12, 16, 20, 24, 28, 30], "validation": [10, 20, 30], "test": [30]}
STATES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


@pytest.fixture(scope="module")
def logdir(server, trained, tiny_dir, tmp_path_factory) -> pathlib.Path:
    """A directory of two runs: `first`, and `other` of another network, without validation."""
    directory = tmp_path_factory.mktemp("logdir")
    shutil.copytree(trained.directory, directory / "first")
    flags = ("--epochs=1", "--model=cnn", "--batch_size=50", "--validation_examples=0")
    flags += ("--jit_compile=off",)
    server(*flags, f"--data_dir={tiny_dir}", f"--model_dir={directory / 'other'}")
    return directory


@pytest.fixture(scope="module")
def address(logdir: pathlib.Path) -> Iterator[str]:
    """The address of a real TensorBoard on both runs."""
    from tensorboard import default, program

    tensorboard = program.TensorBoard(plugins=default.get_plugins())
    tensorboard.configure(
        logdir=str(logdir), host="127.0.0.1", port=0, load_fast="false", bind_all=False
    )
    yield tensorboard.launch()
    with contextlib.suppress(AttributeError):
        tensorboard._server.shutdown()


def fetch(address: str, path: str, body: object = None, **query: object) -> bytes:
    words = f"?{urllib.parse.urlencode(query)}" if query else ""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address.rstrip('/')}/data/plugin/{path}{words}", data)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def ask(address: str, path: str, body: object = None, **query: object):
    return json.loads(fetch(address, path, body, **query))


def part(name: str, run: str = "first") -> str:
    return f"{run}/tensorboard/{name}"


def test_loss_and_accuracy_of_every_part_are_curves_of_one_name(address, trained) -> None:
    tags = ask(address, "scalars/tags")
    assert set(tags[part("train")]) == {
        *("loss", "accuracy", "gradient_norm", "learning_rate", "examples_per_second")
    }
    assert set(tags[part("validation")]) == {"loss", "accuracy"}
    assert set(tags[part("test")]) == {"loss", "accuracy", "calibrated_loss"}
    for name, steps in STEPS.items():
        for tag in ("loss", "accuracy"):
            points = ask(address, "scalars/scalars", run=part(name), tag=tag)
            assert [step for _, step, _ in points] == steps
    rows = runs.history(trained.directory)
    for tag in ("loss", "accuracy"):
        points = ask(address, "scalars/scalars", run=part("validation"), tag=tag)
        found = [float(row[f"validation_{tag}"]) for row in rows]
        assert [value for _, _, value in points] == pytest.approx(found, rel=1e-6)
    metrics = runs.metrics(trained.directory)
    [[_, _, loss]] = ask(address, "scalars/scalars", run=part("test"), tag="calibrated_loss")
    assert loss == pytest.approx(metrics["test_loss"], rel=1e-6)
    [[_, _, raw]] = ask(address, "scalars/scalars", run=part("test"), tag="loss")
    assert abs(raw - loss) > 1e-3  # comparable with validation, and described as such
    assert "alibrated" in tags[part("test")]["loss"]["description"]
    rates = ask(address, "scalars/scalars", run=part("train"), tag="learning_rate")
    assert rates[2][2] == pytest.approx(float(rows[0]["learning_rate"]))


def test_every_picture_is_there_and_is_a_png(address: str) -> None:
    tags = ask(address, "images/tags")
    shown = {name: set(tags[part(name)]) for name in STEPS}
    answers = {"confusion_matrix", "mistakes"}
    assert shown == {"train": {"input_digits"}, "validation": answers, "test": answers}
    for name in STEPS:
        for tag in shown[name]:
            found = ask(address, "images/images", run=part(name), tag=tag, sample=0)
            assert [each["step"] for each in found] == ([0] if name == "train" else STEPS[name])
            content = fetch(address, f"images/individualImage?{found[-1]['query']}")
            assert tf.io.decode_png(content).numpy().std() > 5  # not blank


def test_the_weights_have_a_histogram_an_epoch(address: str) -> None:
    tags = ask(address, "histograms/tags")[part("train")]
    assert set(tags) == {f"weights/mlp/{layer}/kernel" for layer in ("hidden", "logits")}
    query = {"run": part("train"), "tag": "weights/mlp/hidden/kernel"}
    found = ask(address, "histograms/histograms", **query)
    assert [step for _, step, _ in found] == [10, 20, 30]
    for _, _, buckets in found:
        assert sum(count for _, _, count in buckets) == 784 * 128


def test_the_configuration_and_the_graph_are_there(address: str) -> None:
    (text,) = ask(address, "text/text", run=part("train"), tag="configuration")
    for word in ("batch_size", "learning_rate", "tensorflow", "precision"):
        assert word in text["text"]
    assert "<pre>" in text["text"]
    assert not set('"{}') & set(text["text"].split("<pre>")[1])
    assert ask(address, "graphs/info")[part("train")]["run_graph"]


def test_the_projector_has_features_with_labels_and_pictures(address, logdir) -> None:
    run = part("test")
    (shown,) = ask(address, "projector/info", run=run)["embeddings"]
    assert shown["tensorShape"] == [runs.TEST, 128]
    query = {"run": run, "name": shown["tensorName"]}
    features = np.frombuffer(fetch(address, "projector/tensor", **query), np.float32)
    features = features.reshape(shown["tensorShape"])
    table = fetch(address, "projector/metadata", **query).decode().splitlines()
    _, _, images, labels = runs.tiny_arrays()
    assert [row.split("\t")[0] for row in table] == ["is", *map(str, labels)]
    sprite = tf.io.decode_png(fetch(address, "projector/sprite_image", **query)).numpy()[..., 0]
    np.testing.assert_array_equal(sprite[:28, 28:56], images[1])
    # The last layer makes of the features what the served model answers.
    (saved,) = (logdir / "first" / "saved_model").iterdir()
    model = tf.saved_model.load(str(saved))
    kernel, bias = (variable.numpy() for variable in model.weights[-2:])
    answers = model.signatures["serving_default"](images=tf.constant(images))["classes"].numpy()
    assert ((features @ kernel + bias).argmax(1) == answers).mean() > 0.95  # four digits a number


def test_runs_are_compared_by_hyperparameters_and_accuracies(address, logdir) -> None:
    experiment = ask(address, "hparams/experiment", {"experimentName": ""})
    names = [info["name"] for info in experiment["hparamInfos"]]
    assert names[0] == "model"
    assert {"epochs", "batch_size", "learning_rate", "seed", "label_smoothing"} <= set(names)
    metrics = [(info["name"]["group"], info["name"]["tag"]) for info in experiment["metricInfos"]]
    assert metrics == [("test", "accuracy"), ("validation", "accuracy")]
    assert {"mlp", "cnn"} <= set(experiment["hparamInfos"][0]["domainDiscrete"])
    wanted = {
        **{"experimentName": "", "startIndex": 0, "sliceSize": 10, "allowedStatuses": STATES},
        "colParams": [
            *({"hparam": name, "includeInResult": True} for name in names),
            *({"metric": m["name"], "includeInResult": True} for m in experiment["metricInfos"]),
        ],
    }
    groups = ask(address, "hparams/session_groups", wanted)["sessionGroups"]
    assert sorted(group["hparams"]["model"] for group in groups) == ["cnn", "mlp"]
    for group in groups:
        run = {"mlp": "first", "cnn": "other"}[group["hparams"]["model"]]
        found = runs.metrics(logdir / run)
        values = {m["name"]["group"]: m["value"] for m in group["metricValues"]}
        assert values["test"] == pytest.approx(found["test_accuracy"], abs=1e-6)
        if run == "first":
            assert values["validation"] == pytest.approx(found["validation_accuracy"])


def written(directory: pathlib.Path, steps: range) -> None:
    events = EventFiles(str(directory), steps.start - 1 if steps.start else None)
    for step in steps:
        events.add("train", [scalar_pb("loss", 1 / (step + 1))], step)
    events.flush()


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: pathlib.Path) -> None:
    written(tmp_path, range(0, 10))
    written(tmp_path, range(6, 12))
    assert runs.scalar_steps(tmp_path / "train", "loss") == list(range(12))
    written(tmp_path, range(0, 3))
    assert runs.scalar_steps(tmp_path / "train", "loss") == [0, 1, 2]


def test_a_test_that_is_made_again_is_there_once(tmp_path: pathlib.Path) -> None:
    for _ in range(2):  # at its last step a run resumes, but only to finish
        events = EventFiles(str(tmp_path), resumed_from=5)
        events.add("test", [scalar_pb("loss", 1.0)], 5)
        events.flush()
    assert runs.scalar_steps(tmp_path / "test", "loss") == [5]


@pytest.mark.parametrize("lost", [1, 12, 40])
def test_a_file_that_a_kill_cut_short_keeps_its_complete_records(tmp_path, lost) -> None:
    written(tmp_path, range(0, 10))
    (path,) = (tmp_path / "train").iterdir()
    path.write_bytes(path.read_bytes()[:-lost])
    keep_events(str(tmp_path / "train"), 100)
    assert runs.scalar_steps(tmp_path / "train", "loss") == list(range(9))
    assert len(list(tf.data.TFRecordDataset([str(path)]))) == 10  # DataLossError if one is cut
