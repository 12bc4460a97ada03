"""What the peers share: arguments, MNIST from $MNIST_DATA_DIR, and the JSON lines that they print.

Needs nothing but numpy, because each peer runs in an environment of its own.
"""

import gzip
import json
import os
import pathlib
import sys
import time

import numpy as np

STARTED = time.perf_counter()


def arguments(*defaults):
    """Returns the command line's arguments, as many as there are defaults, and of their types."""
    given = sys.argv[1:]
    return [
        *map(lambda default, text: type(default)(text), defaults, given),
        *defaults[len(given) :],
    ]


def mnist():
    """Returns training images uint8 [60000, 28, 28] and labels, then those of the test."""
    found = []
    for part in ("train", "t10k"):
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            path = pathlib.Path(os.environ["MNIST_DATA_DIR"], f"{part}-{kind}-ubyte.gz")
            values = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
            found.append(values.reshape(-1, 28, 28) if kind.startswith("images") else values)
    return found


def epoch(number, train_seconds, test_accuracy):
    """Prints the line of an epoch; `train_seconds` is the sum so far, without evaluation."""
    line = {"epoch": number, "train_seconds": train_seconds, "test_accuracy": float(test_accuracy)}
    print(json.dumps(line), flush=True)


def end():
    """Prints the last line: seconds of the whole process."""
    print(json.dumps({"wall_seconds": round(time.perf_counter() - STARTED, 3)}), flush=True)
