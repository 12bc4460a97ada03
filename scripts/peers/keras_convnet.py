"""The convnet of Keras's own MNIST example: two 3x3 convolutions, dropout, Adam, Keras `fit`.

Usage: keras_convnet.py [EPOCHS], with tensorflow installed.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import lines
from keras import layers

(epochs,) = lines.arguments(1)
train_images, train_labels, test_images, test_labels = lines.mnist()
train_images, test_images = (
    images[..., None].astype("float32") / 255 for images in (train_images, test_images)
)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
seconds = 0.0
for number in range(1, epochs + 1):
    started = time.perf_counter()
    model.fit(train_images, train_labels, batch_size=128, validation_split=0.1, verbose=0)
    seconds += time.perf_counter() - started
    lines.epoch(number, seconds, model.evaluate(test_images, test_labels, verbose=0)[1])
lines.end()
