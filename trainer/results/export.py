"""The servable model: a SavedModel with preprocessing and temperature inside, checked first."""

import keras
import numpy as np
import tensorflow as tf

from trainer.model import networks
from trainer.run import files

_IMAGES = tf.TensorSpec((None, 28, 28), tf.uint8, name="images")
_IMAGE_BYTES = tf.TensorSpec((None,), tf.string, name="image_bytes")
CHECKED = 64  # digits whose answers are compared before a model is published
# Reading back runs the same kernels on other batch sizes, which may round differently; bfloat16
# keeps 8 bits. A temperature below 1 widens the differences.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


class Classifier(tf.Module):
    """The signatures around a model from `networks.build`.

    `serving_default`: `images` uint8 [n, 28, 28] -> `classes` int64 [n], `probabilities` float32
    [n, 10], the softmax of logits / temperature. `serving_bytes`: `image_bytes` string [n], PNG or
    JPEG files of a light digit on black, scaled to 28 x 28 -> the same.
    """

    def __init__(self, model: keras.Model, temperature: float):
        super().__init__(name="classifier")
        self._model, self._temperature = model, temperature
        self.weights = [variable.value for variable in model.variables]

    @tf.function(input_signature=[_IMAGES], autograph=False)
    def serving_default(self, images):
        """Answers for digits as MNIST holds them."""
        logits = networks.logits(self._model, images)
        probabilities = tf.nn.softmax(logits / self._temperature)
        return {"classes": tf.argmax(logits, 1), "probabilities": probabilities}

    @tf.function(input_signature=[_IMAGE_BYTES], autograph=False)
    def serving_bytes(self, image_bytes):
        """Answers for image files."""
        digit = tf.TensorSpec((28, 28), tf.uint8)
        return self.serving_default(tf.map_fn(_decode, image_bytes, fn_output_signature=digit))


def _decode(content):
    image = tf.io.decode_image(content, channels=1, expand_animations=False)
    image.set_shape((None, None, 1))
    scaled = tf.image.resize(image, (28, 28), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)[..., 0]


def publish(
    model: keras.Model,
    path: str,
    temperature: float,
    images: np.ndarray,
    probabilities: np.ndarray,
    precision: str,
) -> None:
    """Writes the SavedModel `path`, which ends in a version as TensorFlow Serving's layout has it.

    `model` is from `networks.build`, its variables outside any strategy, and computes in
    `precision`. `probabilities`, float [n, 10], are what the trained model answers to `images`,
    uint8 [n, 28, 28], at this temperature.

    Raises:
      RuntimeError: what was written, read back, answers differently; nothing is published.
    """
    classifier = Classifier(model, temperature)
    signatures = {name: getattr(classifier, name) for name in ("serving_default", "serving_bytes")}
    with files.replacing(path) as temporary:
        tf.saved_model.save(classifier, temporary, signatures=signatures)
        answers = _answers(temporary, images[:CHECKED])
        check(answers, probabilities[:CHECKED], temperature, precision)


def _answers(path: str, images: np.ndarray) -> np.ndarray:
    """Returns the probabilities of a SavedModel's signatures, float32 [2, n, 10]."""
    signatures = tf.saved_model.load(path).signatures
    contents = tf.stack([tf.io.encode_png(image[..., None]) for image in images])
    answers = [signatures["serving_default"](images=tf.constant(images))]
    answers += [signatures["serving_bytes"](image_bytes=contents)]
    return np.stack([answer["probabilities"].numpy() for answer in answers])


def check(
    answers: np.ndarray, probabilities: np.ndarray, temperature: float, precision: str
) -> None:
    """Raises `RuntimeError` unless answers, float [..., n, 10], are `probabilities` but for rounding."""
    difference = float(np.abs(answers - probabilities).max())
    if not difference <= _TOLERANCE[precision] * max(1, 1 / temperature):  # or not a number
        raise RuntimeError(f"the export's answers differ by {difference:.2g}; not published")
