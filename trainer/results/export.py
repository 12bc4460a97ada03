"""The exported models, with preprocessing and temperature inside: a SavedModel, `model.keras`."""

import os
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer.model import networks
from trainer.recipes import RECIPES
from trainer.run import files

_IMAGES = tf.TensorSpec((None, 28, 28), tf.uint8, name="images")
_IMAGE_BYTES = tf.TensorSpec((None,), tf.string, name="image_bytes")
_MAX_PIXELS = 1 << 24  # of an image file: a kilobyte of PNG may hold a gigabyte
_CHECKED = 64  # digits
# Reading back runs the same kernels on other batch sizes, which may round differently; bfloat16
# keeps 8 bits. A temperature below 1 widens the differences.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


class Classifier(tf.Module):
    """The signatures around a model from `networks.build`.

    `serving_default`: `images` uint8 [n, 28, 28] -> `classes` int64 [n], `probabilities` float32
    [n, 10], the softmax of logits / temperature. `serving_bytes`: `image_bytes` string [n] -> the
    same, for PNG or JPEG files of a light digit on black, at most 16 million pixels: it scales the
    whole picture to 28 x 28 and does none of what `trainer.predict` does to read a photo.
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
        """Answers for image files of such digits."""
        digit = tf.TensorSpec((28, 28), tf.uint8)
        return self.serving_default(tf.map_fn(_decode, image_bytes, fn_output_signature=digit))


def _decode(content):
    header = tf.strings.substr(content + bytes(24), 0, 24)
    is_jpeg = tf.strings.substr(header, 0, 2) == b"\xff\xd8"
    is_png = tf.strings.substr(header, 0, 8) == b"\x89PNG\r\n\x1a\n"
    # https://www.w3.org/TR/png-3/#11IHDR
    png = tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.int32, little_endian=False)
    size = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(content)[:2], lambda: png)
    fits = tf.reduce_all(size > 0) & (tf.reduce_prod(tf.cast(size, tf.float32)) <= _MAX_PIXELS)
    expected = f"takes PNG and JPEG files of at most {_MAX_PIXELS} pixels; the sides of this are:"
    check = tf.debugging.Assert((is_jpeg | is_png) & fits, [expected, size])
    with tf.control_dependencies([check]):
        image = tf.io.decode_png(content, channels=1)  # or JPEG
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
    """Writes the SavedModel `path`, or a file of `keras_classifier` if it ends in `.keras`.

    `model` is from `networks.build`, its variables outside any strategy, and computes in
    `precision`. `probabilities`, float [n, 10], are what the trained model answers to `images`,
    uint8 [n, 28, 28], at this temperature.
    Raises `RuntimeError`, and publishes nothing, if what was written and read back differs.
    """
    write = _write_keras if path.endswith(".keras") else _write_saved_model
    with files.replacing(path) as temporary:
        answers = write(model, temporary, temperature, images[:_CHECKED])
        difference = float(np.abs(answers - probabilities[:_CHECKED]).max())
        if not difference <= _TOLERANCE[precision] * max(1, 1 / temperature):  # or not a number
            raise RuntimeError(f"the export's answers differ by {difference:.2g}; not published")


def _write_saved_model(model: keras.Model, path: str, temperature: float, images: np.ndarray):
    """Returns what both signatures of the model that was written answer to `images`."""
    classifier = Classifier(model, temperature)
    signatures = {name: getattr(classifier, name) for name in ("serving_default", "serving_bytes")}
    tf.saved_model.save(classifier, path, signatures=signatures)
    with files.without_pattern(path) as readable:
        signatures = tf.saved_model.load(readable).signatures
    contents = tf.stack([tf.io.encode_png(image[..., None]) for image in images])
    answers = [signatures["serving_default"](images=tf.constant(images))]
    answers += [signatures["serving_bytes"](image_bytes=contents)]
    return np.stack([answer["probabilities"].numpy() for answer in answers])


def _write_keras(model: keras.Model, path: str, temperature: float, images: np.ndarray):
    """Returns what the model that was written answers to `images`."""
    with tempfile.TemporaryDirectory() as local:  # Keras reads and writes local files alone
        file = os.path.join(local, "model.keras")
        keras_classifier(model, temperature).save(file)
        files.write_bytes(path, pathlib.Path(file).read_bytes())
        return keras.models.load_model(file)(images, training=False)


def keras_classifier(model: keras.Model, temperature: float) -> keras.Model:
    """Returns `Classifier` of Keras's own layers: uint8 [n, 28, 28] to probabilities [n, 10]."""
    images = keras.Input((28, 28), dtype="uint8", name="images")
    pixels = layers.Rescaling(1 / 255, name="pixels")(images)
    logits = model(pixels)
    if RECIPES[model.name].test_time_shifts:
        wide = layers.ZeroPadding2D(1)(layers.Reshape((28, 28, 1))(pixels))
        crops = [layers.Cropping2D(((y, 2 - y), (x, 2 - x)))(wide) for y, x in networks.SHIFTS]
        logits = layers.Average()([model(layers.Reshape((28, 28))(crop)) for crop in crops])
    calibrated = layers.Rescaling(1 / temperature, name="temperature")(logits)
    return keras.Model(images, layers.Softmax(name="probabilities")(calibrated), name="digits")
