"""What most people run instead: the same network, Keras `fit` with its defaults, no artifacts.

Prints one JSON line: `wall_seconds` of the whole process and `test_accuracy`. Apart from the
trainer, with which it shares nothing but the reading of the data, so that a comparison is fair.
"""

import json
import pathlib
import sys
import time

STARTED = time.perf_counter()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import tensorflow as tf  # noqa: E402

from trainer import data  # noqa: E402

mnist = data.load("mnist")
model = tf.keras.Sequential(
    [
        tf.keras.Input((28, 28)),
        tf.keras.layers.Rescaling(1 / 255),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(128, activation="relu"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(mnist.train_images, mnist.train_labels, epochs=5, verbose=0)
accuracy = model.evaluate(mnist.test_images, mnist.test_labels, verbose=0)[1]
wall_seconds = round(time.perf_counter() - STARTED, 3)
print(json.dumps({"wall_seconds": wall_seconds, "test_accuracy": round(accuracy, 4)}))
