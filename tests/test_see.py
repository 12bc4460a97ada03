"""All that TensorBoard has to show of two runs below one directory, asked of a real server."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import types
import urllib.parse
import urllib.request
from collections.abc import Iterator

import conftest
import numpy as np
import pytest
import runs
import tensorflow as tf

from trainer.config import Config
from trainer.data import pipeline
from trainer.results import tensorboard
from trainer.results.event_files import Summaries

PARTS = ("train", "validation", "test")
KERNELS = [f"mlp/{layer}/{kind}" for layer in ("hidden", "logits") for kind in ("kernel", "bias")]
DIGITS = range(10)
STATES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


@pytest.fixture(scope="module")
def logdir(
    server: runs.TaskServer,
    trained: conftest.Run,
    tiny_dir: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    """A directory of two runs: `full`, and `minimal` with another learning rate."""
    directory = tmp_path_factory.mktemp("logdir")
    shutil.copytree(trained.directory, directory / "full")
    server(
        *runs.FLAGS,
        *("--epochs=1", "--learning_rate=0.002", "--summaries=minimal", "--jit_compile=off"),
        *(f"--data_dir={tiny_dir}", f"--model_dir={directory / 'minimal'}"),
    )
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


def part(name: str, run: str = "full") -> str:
    return f"{run}/tensorboard/{name}"


@pytest.mark.parametrize("augment", ["none", "shift", "affine", "elastic"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_first_digits_are_shown_as_they_are_trained_on(augment: str, replicas: int) -> None:
    images, labels, _, _ = runs.tiny_arrays()
    batches = pipeline.training_batches(
        *(images[:500], labels[:500]),
        **{"global_batch_size": 100, "seed": 3, "augment": augment},
        **{"first_step": 0, "last_step": 2, "steps_per_loop": 2},
        **{"replicas": replicas, "local_replicas": range(replicas)},
    )
    shares = [next(iter(share))[0] for share in batches]  # of each replica
    trained = np.concatenate(shares[0].numpy())[:128]
    superbatch = (shares[0] if replicas == 1 else types.SimpleNamespace(values=shares), None)
    shown = {}
    summaries = types.SimpleNamespace(digits=lambda *args: shown.update({args[1]: args[2]}))
    tensorboard.input_digits(types.SimpleNamespace(summaries=summaries), superbatch)
    np.testing.assert_array_equal(shown["input_digits"], trained)


def test_every_picture_is_there_and_is_a_png(address: str) -> None:
    tags = ask(address, "images/tags")
    shown = {name: set(tags[part(name)]) for name in PARTS}
    assert shown == {
        "train": {"input_digits"},
        "validation": {"predictions", "confusion_matrix", "mistakes"},
        "test": {"confusion_matrix", "mistakes"},
    }
    for name in PARTS:
        for tag in shown[name]:
            found = ask(address, "images/images", run=part(name), tag=tag, sample=0)
            steps = {"train": [0], "validation": [10, 20, 30], "test": [30]}[name]
            assert [each["step"] for each in found] == steps
            content = fetch(address, f"images/individualImage?{found[-1]['query']}")
            assert content.startswith(b"\x89PNG")


def test_pictures_show_what_was_answered(tmp_path: pathlib.Path) -> None:
    labels = np.full(40, 3, np.uint8)
    images = np.zeros((40, 28, 28), np.uint8)
    images[7] = 255
    logits = np.zeros((40, 10), np.float32)
    logits[:, 3] = 4
    logits[[5, 7], 5] = 6, 9  # two are read as a 5; of the second it is surer
    run = types.SimpleNamespace(
        plan=types.SimpleNamespace(examples=0, config=Config(summaries="full")),
        progress=types.SimpleNamespace(step=1),
        dataset=types.SimpleNamespace(train_images=images, train_labels=labels),
        summaries=Summaries(str(tmp_path), -1),
    )
    tensorboard.validated(run, logits, 0.5, 0.95)
    run.summaries.close()
    pictures = {
        value.tag: tf.io.decode_png(tf.make_ndarray(value.tensor)[2]).numpy().astype(int)
        for event in runs.events(tmp_path / "validation")
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    }

    def redness(tag: str, x: int, y: int) -> int:
        red, _, blue = pictures[tag][y, x]
        return red - blue

    corner = {digit: (digit + 1) * 44 + 6 for digit in DIGITS}  # of a matrix's cell
    assert redness("confusion_matrix", x=corner[3], y=corner[3]) < -100  # blue: 38 were right
    assert redness("confusion_matrix", x=corner[5], y=corner[3]) > 100  # orange: 3 read as 5
    assert redness("confusion_matrix", x=corner[3], y=corner[5]) == 0
    assert redness("predictions", x=4, y=4) == 0  # the frame of the first digit
    assert redness("predictions", x=4 + 5 * 92, y=4) > 100
    assert pictures["mistakes"][46, [46, 46 + 92]].max(1).tolist() == [0, 255]


def test_weights_and_gradients_have_a_histogram_an_epoch(address: str) -> None:
    tags = ask(address, "histograms/tags")[part("train")]
    assert set(tags) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in KERNELS}
    for kind in ("weights", "gradients"):
        tag = f"{kind}/mlp/hidden/kernel"
        found = ask(address, "histograms/histograms", run=part("train"), tag=tag)
        assert [step for _, step, _ in found] == [10, 20, 30]
        for _, _, buckets in found:
            assert sum(count for _, _, count in buckets) == 784 * 128
            assert sum(count > 0 for _, _, count in buckets) > 3  # not all are zeros


def test_each_digit_has_its_precision_recall_curve(address: str) -> None:
    tags = ask(address, "pr_curves/tags")
    arrays = runs.tiny_arrays()
    for name, steps in (("validation", [10, 20, 30]), ("test", [30])):
        assert set(tags[part(name)]) == {f"precision_recall/{digit}" for digit in DIGITS}
        query = {"run": part(name), "tag": "precision_recall/3"}
        curves = ask(address, "pr_curves/pr_curves", **query)[part(name)]
        assert [curve["step"] for curve in curves] == steps
        assert curves[-1]["recall"][0] == 1
        labels = arrays[1][-runs.VALIDATION :] if name == "validation" else arrays[3]
        assert curves[-1]["true_positives"][0] == (labels == 3).sum()
        assert curves[-1]["recall"] == sorted(curves[-1]["recall"], reverse=True)


def test_a_precision_recall_curve_counts_what_a_threshold_lets_through() -> None:
    positive = np.array([True, True, False, False])
    true, false, rejected, missed, precision, recall = tensorboard.pr_curve(
        positive, np.array([0.9, 0.3, 0.6, 0.1])
    )
    at = [0, 20, 50, 80, 95]  # hundredths
    assert true[at].tolist() == [2, 2, 1, 1, 0]
    assert false[at].tolist() == [2, 1, 1, 0, 0]
    assert rejected[at].tolist() == [0, 1, 1, 2, 2]
    assert missed[at].tolist() == [0, 0, 1, 1, 2]
    assert precision[at].tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1, 1])
    assert recall[at].tolist() == [1, 1, 0.5, 0.5, 0]


def test_the_projector_shows_features_with_labels_and_pictures(
    address: str, logdir: pathlib.Path
) -> None:
    run = part("test")
    assert run in ask(address, "projector/runs")
    (shown,) = ask(address, "projector/info", run=run)["embeddings"]
    assert shown["tensorShape"] == [runs.TEST, 128]
    query = {"run": run, "name": shown["tensorName"]}
    features = np.frombuffer(fetch(address, "projector/tensor", **query), np.float32)
    features = features.reshape(shown["tensorShape"])
    assert features.std() > 0
    table = fetch(address, "projector/metadata", **query).decode().splitlines()
    _, _, images, labels = runs.tiny_arrays()
    assert table[0] == "is\tread as"
    assert [row.split("\t")[0] for row in table[1:]] == [str(label) for label in labels]
    sprite = tf.io.decode_png(fetch(address, "projector/sprite_image", **query)).numpy()[..., 0]
    np.testing.assert_array_equal(sprite[:28, 28:56], images[1])
    # The last layer makes of the features what the served model answers.
    (saved,) = (logdir / "full" / "saved_model").iterdir()
    model = tf.saved_model.load(str(saved))
    kernel, bias = (variable.numpy() for variable in model.weights[-2:])
    answers = model.signatures["serving_default"](images=tf.constant(images))["classes"].numpy()
    assert ((features @ kernel + bias).argmax(1) == answers).mean() > 0.95  # four digits a number


def test_curves_that_belong_together_are_laid_out_together(address: str) -> None:
    layout = ask(address, "custom_scalars/layout")
    titles = {
        category["title"]: {chart["title"] for chart in category["chart"]}
        for category in layout["category"]
    }
    assert titles == {category: set(charts) for category, charts in tensorboard.LAYOUT.items()}
    query = {"tag": "^loss$", "run": part("validation")}
    found = ask(address, "custom_scalars/scalars", **query)
    assert [step for _, step, _ in found["tag_to_events"]["loss"]] == [10, 20, 30]


def test_the_share_found_of_each_digit_adds_up_to_the_accuracy(
    address: str, logdir: pathlib.Path
) -> None:
    labels = runs.tiny_arrays()[3]
    right = 0.0
    for digit in sorted(set(labels.tolist())):
        query = {"run": part("test"), "tag": f"class_accuracy/{digit}"}
        ((_, step, share),) = ask(address, "scalars/scalars", **query)
        assert step == 30
        right += share * (labels == digit).sum()
    accuracy = runs.metrics(logdir / "full")["test_accuracy"]
    assert right / len(labels) == pytest.approx(accuracy, abs=1e-6)


def test_texts_tell_configuration_environment_and_model(address: str) -> None:
    said = {
        tag: ask(address, "text/text", run=part("train"), tag=tag)[0]["text"]
        for tag in ask(address, "text/tags")[part("train")]
    }
    assert set(said) == {"configuration", "environment", "model"}
    assert "tensorflow" in said["environment"]
    assert "Dense [128], 100,480 parameters" in said["model"]


def test_runs_below_one_directory_are_compared_by_hyperparameters(address: str) -> None:
    experiment = ask(address, "hparams/experiment", {"experimentName": ""})
    wanted = {
        **{"startIndex": 0, "sliceSize": 10, "allowedStatuses": STATES},
        "colParams": [
            *({"hparam": info["name"]} for info in experiment["hparamInfos"]),
            *({"metric": info["name"]} for info in experiment["metricInfos"]),
        ],
    }
    for column in wanted["colParams"]:
        column["includeInResult"] = True
    groups = ask(address, "hparams/session_groups", wanted)["sessionGroups"]
    rates = sorted(group["hparams"]["learning_rate"] for group in groups)
    assert rates == [0.002, 0.008]
    for group in groups:
        values = {(m["name"]["group"], m["name"]["tag"]): m["value"] for m in group["metricValues"]}
        assert {("test", "accuracy"), ("validation", "loss"), ("train", "loss")} <= set(values)


def test_a_minimal_run_shows_curves_texts_and_no_more(address: str) -> None:
    curves = ask(address, "scalars/tags")
    assert set(curves[part("validation", "minimal")]) == {"loss", "accuracy"}
    assert part("train", "minimal") in ask(address, "text/tags")
    assert part("train", "minimal") not in ask(address, "histograms/tags")
    assert part("test", "minimal") not in ask(address, "pr_curves/tags")
    assert part("test", "minimal") not in ask(address, "projector/runs")
