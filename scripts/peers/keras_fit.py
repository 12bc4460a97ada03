"""The same network as `mlp` with Keras's `fit` and its defaults, without files.

Usage: keras_fit.py, with tensorflow installed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import lines
import tensorflow as tf

train_images, train_labels, test_images, test_labels = lines.mnist()
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
model.fit(train_images, train_labels, epochs=5, verbose=0)
model.evaluate(test_images, test_labels, verbose=0)
lines.end()
