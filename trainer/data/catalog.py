"""What the publishers of MNIST and Fashion-MNIST put on the web: file names, sizes, checksums and
mirrors.

Facts only, apart from the code that uses them, so that a moved mirror is a one-line change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os

# The order of the fields of `trainer.data.Dataset`, and the names that every copy of the two data
# sets uses.
FILE_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclasses.dataclass(frozen=True)
class File:
    """One published gzip file: its name, its size in bytes, and the SHA-256 (hex) of its bytes."""

    name: str
    size: int
    sha256: str

    def matches(self, path: str | os.PathLike) -> bool:
        """Returns whether this very file is at `path`."""
        try:
            if os.path.getsize(path) != self.size:
                return False
            with open(path, "rb") as stream:
                return hashlib.sha256(stream.read()).hexdigest() == self.sha256
        except OSError:
            return False


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set on the web.

    Attributes:
      title: its name for people.
      files: the four gzip files, in the order of `FILE_NAMES`.
      mirrors: base URLs (with the closing slash) that serve all of the files, in the order to try
        them.
      torchvision: the name of torchvision's class for it, which is the folder that torchvision
        makes.
      keras: the folder below Keras's `datasets` where Keras keeps it.
    """

    title: str
    files: tuple[File, ...]
    mirrors: tuple[str, ...]
    torchvision: str
    keras: str


PUBLISHED = {
    # Checksums: of the files as first published on http://yann.lecun.com/exdb/mnist/; the same as
    # in tensorflow/datasets, tensorflow_datasets/url_checksums/mnist.txt. Mirrors: the one
    # PyTorch's torchvision uses and the one TensorFlow Datasets uses.
    "mnist": Published(
        title="MNIST",
        files=(
            File(
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            File(
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            File(
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            File(
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        torchvision="MNIST",
        keras="",
    ),
    # Sizes and checksums: tensorflow/datasets, tensorflow_datasets/url_checksums/fashion_mnist.txt,
    # and the same in keras-team/keras, keras/src/datasets/fashion_mnist.py (FILE_HASHES). Mirrors:
    # Keras's copy, and the authors' own site (https://github.com/zalandoresearch/fashion-mnist),
    # which speaks plain HTTP only.
    "fashion_mnist": Published(
        title="Fashion-MNIST",
        files=(
            File(
                "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            File(
                "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            File(
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            File(
                "t10k-labels-idx1-ubyte.gz",
                5148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        torchvision="FashionMNIST",
        keras="fashion-mnist",
    ),
}
