"""`model.keras`: it answers in Keras alone as the SavedModel does, and can be trained further."""

import json
import pathlib

import conftest
import numpy as np
import pytest
import runs
import tensorflow as tf

from trainer.model import networks
from trainer.results import export

IMAGES = runs.tiny_arrays()[2]


def test_a_script_with_nothing_but_keras_reads_the_reported_accuracy_and_trains_on(
    trained: conftest.Run, tiny_dir: pathlib.Path
) -> None:
    program = """
        import gzip, json, sys
        import keras
        import numpy as np
        path, data = sys.argv[1:]
        def idx(name, shape, skip):
            with gzip.open(f"{data}/{name}-ubyte.gz") as file:
                return np.frombuffer(file.read()[skip:], np.uint8).reshape(shape)
        def digits(part):
            images = idx(f"{part}-images-idx3", (-1, 28, 28), 16)
            return images, idx(f"{part}-labels-idx1", (-1,), 8)
        model = keras.models.load_model(path, safe_mode=True)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        found = model.evaluate(*digits("t10k"), verbose=0, return_dict=True)
        answer = model.predict(digits("t10k")[0], verbose=0)
        before, after = model.evaluate(*digits("train"), verbose=0)[0], None
        after = model.fit(*digits("train"), epochs=3, verbose=0).history["loss"][-1]
        logits = model.get_layer("mlp")(digits("train")[0][:5] / np.float32(255))
        assert "trainer" not in sys.modules
        print(json.dumps([found, answer.tolist(), before, after, list(logits.shape)]))
    """
    process = runs.python(program, args=(str(trained.directory / "model.keras"), str(tiny_dir)))
    out, err = process.communicate()
    assert process.returncode == 0, err
    found, answer, before, after, shape = json.loads(out)
    metrics = runs.metrics(trained.directory)
    assert found["accuracy"] == pytest.approx(metrics["test_accuracy"])
    assert found["loss"] == pytest.approx(metrics["test_loss"], rel=1e-3)
    saved = tf.saved_model.load(str(trained.directory / "saved_model" / str(metrics["steps"])))
    served = saved.signatures["serving_default"](images=tf.constant(IMAGES))["probabilities"]
    np.testing.assert_allclose(answer, served, atol=1e-5)
    assert after < before
    assert shape == [5, 10]


def expected(network, temperature: float) -> np.ndarray:
    return tf.nn.softmax(networks.logits(network, IMAGES) / temperature).numpy()


@pytest.mark.parametrize(
    ("name", "precision"), [("mlp", "float32"), ("cnn", "bfloat16"), ("convnet", "float32")]
)
def test_every_network_is_published_wherever_its_run_lives(name: str, precision: str) -> None:
    network, path = networks.build(name, precision=precision, seed=3), f"ram://keras/{name}.keras"
    arguments = 0.5, IMAGES, expected(network, 0.5), precision
    export.publish(network, path, *arguments)
    with tf.io.gfile.GFile(path, "rb") as file:
        assert file.read(2) == b"PK"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_what_answers_differently_is_not_published(
    tmp_path: pathlib.Path, temperature: float
) -> None:
    network = networks.build("mlp", seed=3)
    answers = expected(network, temperature)
    answers[5, 3] += 1e-3
    with pytest.raises(RuntimeError, match="not published"):
        export.publish(
            network, str(tmp_path / "model.keras"), temperature, IMAGES, answers, "float32"
        )
    assert list(tmp_path.iterdir()) == []
