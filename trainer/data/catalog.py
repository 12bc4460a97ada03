"""The data sets by name, and their published files: SHA-256 and mirrors."""

import dataclasses
import hashlib
import os
import pathlib

# The same in every data set of this format, in the order of the fields of `trainer.data.Dataset`.
FILE_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set on the web, as gzip files."""

    title: str
    sha256: tuple[str, ...]  # of the files, in hex, in the order of `FILE_NAMES`
    mirrors: tuple[str, ...]  # base URLs with the closing slash, in the order to try them


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file in hex."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


PUBLISHED = {
    # Checksums: tensorflow/datasets, tensorflow_datasets/url_checksums/mnist.txt.
    # Mirrors: those of torchvision and of TensorFlow Datasets.
    "mnist": Published(
        title="MNIST",
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    # Checksums: tensorflow/datasets, tensorflow_datasets/url_checksums/fashion_mnist.txt. Mirrors:
    # Keras's, and the authors' (https://github.com/zalandoresearch/fashion-mnist; HTTP only).
    "fashion_mnist": Published(
        title="Fashion-MNIST",
        sha256=(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
}
