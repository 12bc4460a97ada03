"""The exports: they answer alone as the trained model did, and are published only if they do."""

import json
import os
import pathlib
import struct

import keras
import numpy as np
import pytest
import runs
import tensorflow as tf

from trainer import predict
from trainer.model import networks
from trainer.results import export

IMAGES = runs.tiny_arrays()[2]


def test_a_script_without_the_trainer_reads_the_reported_accuracy_and_trains_on(trained, tiny_dir):
    """With nothing but TensorFlow, and with nothing but Keras."""
    program = """
        import gzip, json, sys
        import keras
        import numpy as np
        import tensorflow as tf
        saved_model, archive, data = sys.argv[1:]
        def idx(name, shape, skip):
            with gzip.open(f"{data}/t10k-{name}-ubyte.gz") as file:
                return np.frombuffer(file.read()[skip:], np.uint8).reshape(shape)
        images, labels = idx("images-idx3", (-1, 28, 28), 16), idx("labels-idx1", (-1,), 8)
        signatures = tf.saved_model.load(saved_model).signatures
        files = [tf.io.encode_png(image[..., None]) for image in images]
        answers = [
            signatures["serving_default"](images=tf.constant(images)),
            signatures["serving_bytes"](image_bytes=tf.stack(files)),
        ]
        served = [
            [float(np.mean(answer["classes"] == labels)),
             *sorted((k, v.dtype.name, list(v.shape)) for k, v in answer.items())]
            for answer in answers
        ]
        model = keras.models.load_model(archive, safe_mode=True)
        loss = "sparse_categorical_crossentropy"
        model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)  # sooner
        found = model.evaluate(images, labels, verbose=0)
        keras.utils.set_random_seed(1)
        losses = model.fit(images, labels, epochs=20, verbose=0).history["loss"]
        logits = model.get_layer("mlp")(images[:5] / np.float32(255))
        assert "trainer" not in sys.modules
        print(json.dumps([served, *found, losses[-1], list(logits.shape)]))
    """
    metrics = runs.metrics(trained.directory)
    exports = [trained.directory / "saved_model" / "30", trained.directory / "model.keras"]
    process = runs.python(program, args=[*map(str, exports), str(tiny_dir)])
    out, err = process.communicate()
    assert process.returncode == 0, err
    served, loss, accuracy, trained_on, shape = json.loads(out)
    types = [["classes", "int64", [runs.TEST]], ["probabilities", "float32", [runs.TEST, 10]]]
    assert served == [[metrics["test_accuracy"], *types]] * 2
    assert accuracy == pytest.approx(metrics["test_accuracy"])
    assert trained_on < loss == pytest.approx(metrics["test_loss"], rel=1e-3)
    assert shape == [5, 10]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return networks.build("mlp", seed=3)


def probabilities(model: keras.Model, temperature: float = 1.0) -> np.ndarray:
    return tf.nn.softmax(model(IMAGES.astype(np.float32) / 255) / temperature).numpy()


def publish(
    model: keras.Model,
    directory: pathlib.Path,
    answers: np.ndarray,
    temperature: float = 1.0,
    **more,
) -> str:
    path = str(directory / more.get("name", "30"))
    export.publish(model, path, temperature, IMAGES, answers, more.get("precision", "float32"))
    return path


def test_it_is_published_and_read_whatever_its_directory_is_called(model, tmp_path) -> None:
    path = publish(model, tmp_path / "exp[lr=0.1]" / "back\\slash", probabilities(model))
    found = predict.load_classifier(path)(IMAGES)[0]
    np.testing.assert_array_equal(found, probabilities(model).argmax(1))


def test_a_temperature_changes_probabilities_and_no_class(model, tmp_path) -> None:
    answers = probabilities(model, 0.4)
    assert answers.max() > probabilities(model).max()
    signatures = tf.saved_model.load(publish(model, tmp_path, answers, temperature=0.4)).signatures
    files = tf.stack([tf.io.encode_png(image[..., None]) for image in IMAGES])
    found = signatures["serving_default"](images=tf.constant(IMAGES))
    for answer in (found, signatures["serving_bytes"](image_bytes=files)):
        np.testing.assert_allclose(answer["probabilities"], answers, atol=1e-5)
        np.testing.assert_array_equal(answer["classes"], probabilities(model).argmax(1))
    with pytest.raises(RuntimeError, match="not published"):
        publish(model, tmp_path, answers, temperature=0.5)


@pytest.mark.parametrize("name", ["30", "model.keras"])
@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_what_answers_differently_is_not_published(model, tmp_path, wrong, name) -> None:
    answers = probabilities(model)
    answers[5, 3] += wrong
    with pytest.raises(RuntimeError, match="not published"):
        publish(model, tmp_path, answers, name=name)
    assert os.listdir(tmp_path) == []
    publish(model, tmp_path, probabilities(model), name=name)
    before = runs.snapshot(tmp_path)
    with pytest.raises(RuntimeError):
        publish(model, tmp_path, answers, name=name)
    assert runs.snapshot(tmp_path) == before


def test_files_of_other_kinds_and_sizes_are_answered(model, tmp_path: pathlib.Path) -> None:
    path = publish(model, tmp_path, probabilities(model))
    answer = tf.saved_model.load(path).signatures["serving_bytes"]
    image = IMAGES[0][..., None]
    large = np.repeat(np.repeat(image, 4, 0), 4, 1)
    files = [
        tf.io.encode_png(image),
        tf.io.encode_png(large),
        tf.io.encode_png(np.repeat(image, 3, 2)),
        tf.io.encode_jpeg(large, quality=100, format="grayscale"),
    ]
    found = answer(image_bytes=tf.stack(files))
    expected = probabilities(model)[0]
    # Halving and doubling a picture, or JPEG's rounding, moves pixels by a grey level or so.
    np.testing.assert_allclose(found["probabilities"], np.tile(expected, (4, 1)), atol=0.05)
    assert len(set(found["classes"].numpy())) == 1
    assert answer(image_bytes=tf.zeros((0,), tf.string))["probabilities"].shape == (0, 10)


def header(width: int, height: int) -> bytes:
    """What a PNG file begins with."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def test_files_that_would_fill_the_memory_are_refused_before_they_are_decoded(model, tmp_path):
    answer = tf.saved_model.load(publish(model, tmp_path, probabilities(model)))
    answer = answer.signatures["serving_bytes"]
    jpeg = bytearray(tf.io.encode_jpeg(IMAGES[0][..., None]).numpy())
    size = jpeg.index(b"\xff\xc0") + 5  # of the frame header: height, width
    jpeg[size : size + 4] = struct.pack(">HH", 20_000, 20_000)
    pngs = [header(20_000, 20_000), header(2**32 - 1, 2**32 - 1), header(0, 9)[:20]]
    for content in (*pngs, bytes(jpeg), b"GIF89a" + b"\xff" * 40, b""):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"takes PNG and JPEG files"):
            answer(image_bytes=tf.constant([content]))
    large = tf.io.encode_png(np.zeros((4096, 4096, 1), np.uint8))
    assert answer(image_bytes=large[None])["classes"].shape == (1,)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_published_as_well(precision: str, tmp_path: pathlib.Path) -> None:
    model = networks.build("cnn", precision=precision, seed=3)
    path = publish(model, tmp_path, probabilities(model), precision=precision)
    signature = tf.saved_model.load(path).signatures["serving_default"]
    for digits in (IMAGES[:3], IMAGES[:0]):
        answer = signature(images=tf.constant(digits))
        assert answer["probabilities"].dtype == tf.float32
        assert answer["probabilities"].shape == (len(digits), 10)


@pytest.mark.parametrize(("name", "precision"), [("cnn", "bfloat16"), ("convnet", "float32")])
def test_keras_files_of_every_network_answer_as_the_saved_model_does(name, precision) -> None:
    model, path = networks.build(name, precision=precision, seed=3), f"ram://keras/{name}.keras"
    answers = tf.nn.softmax(networks.logits(model, IMAGES) / 0.5).numpy()
    export.publish(model, path, 0.5, IMAGES, answers, precision)
    assert tf.io.gfile.exists(path)
