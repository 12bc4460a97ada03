"""`model.keras`: the model for those who go on in Keras, of Keras's own layers alone."""

import os
import pathlib
import tempfile

import keras
import numpy as np
from keras import layers

from trainer.model.networks import SHIFTS
from trainer.recipes import RECIPES
from trainer.results import export
from trainer.run import files


def classifier(network: keras.Model, temperature: float) -> keras.Model:
    """Returns a model of uint8 [n, 28, 28] to calibrated probabilities, float32 [n, 10].

    `network`, from `networks.build` without XLA, is the layer of its name within: pixels between 0
    and 1 to logits. Around it are the preprocessing, the mean over `SHIFTS` if the recipe says so,
    the division by the temperature, and softmax, as in the SavedModel.
    """
    images = keras.Input((28, 28), dtype="uint8", name="images")
    pixels = layers.Rescaling(1 / 255, name="pixels")(images)
    if RECIPES[network.name].test_time_shifts:
        wide = layers.ZeroPadding2D(1)(layers.Reshape((28, 28, 1))(pixels))
        crops = [layers.Cropping2D(((top, 2 - top), (left, 2 - left))) for top, left in SHIFTS]
        logits = layers.Average()([network(layers.Reshape((28, 28))(crop(wide))) for crop in crops])
    else:
        logits = network(pixels)
    calibrated = layers.Rescaling(1 / temperature, name="temperature")(logits)
    return keras.Model(images, layers.Softmax(name="probabilities")(calibrated), name="digits")


def publish(
    network: keras.Model,
    path: str,
    temperature: float,
    images: np.ndarray,
    probabilities: np.ndarray,
    precision: str,
) -> None:
    """Writes `classifier` as the file `path`, once it is read back and answers as it should.

    The arguments are those of `export.publish`, whose answers these have to equal.

    Raises:
      RuntimeError: what was written, read back, answers differently; nothing is published.
    """
    with tempfile.TemporaryDirectory() as local:  # Keras writes and reads local files alone
        file = os.path.join(local, "model.keras")
        classifier(network, temperature).save(file)
        answers = keras.models.load_model(file)(images[: export.CHECKED], training=False)
        export.check(answers, probabilities[: export.CHECKED], temperature, precision)
        files.write_bytes(path, pathlib.Path(file).read_bytes())
