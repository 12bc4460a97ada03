"""`python tests/fuzz.py SECONDS`: hostile data files and pictures, guided by coverage."""

from __future__ import annotations

import gzip
import io
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]


def fuzz(seconds: int, place: pathlib.Path) -> None:
    """Reads hostile files until the time is over; ends the process, with 0 if all is well."""
    import atheris
    import numpy as np

    with atheris.instrument_imports(include=["trainer"], enable_loader_override=False):
        from trainer import picture as pictures
        from trainer.data.formats import read_idx, read_npz
    from trainer.errors import DataError

    def read_picture(path: str) -> None:
        pictures.read_numbers(
            pictures.decode(path),
            lambda fields: (
                np.zeros(len(fields), int),
                np.full((len(fields), 10), 0.7, np.float32),
            ),
        )

    readers = {
        "labels": lambda path: read_idx(path, ()),
        "images.gz": lambda path: read_idx(path, (28, 28)),
        "mnist.npz": read_npz,
        "picture": read_picture,
    }

    def read(content: bytes) -> None:
        for name, reader in readers.items():
            path = place / name
            path.write_bytes(content)
            try:
                reader(str(path))
            except DataError as error:
                if not str(error) or "\n" in str(error):
                    raise AssertionError(f"{error!r} is not one line") from error

    (corpus := place / "corpus").mkdir()
    for number, sample in enumerate(_samples()):
        (corpus / str(number)).write_bytes(sample)
    # No file of a few kilobytes may take more, on a slow and busy machine either.
    limits = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=20000")
    options = (f"-max_total_time={seconds}", f"-artifact_prefix={HERE}/crash-")
    atheris.Setup(["fuzz", str(corpus), *limits, *options], read)
    atheris.Fuzz()


def _samples() -> list[bytes]:
    """Sound files, from which the fuzzer starts."""
    import numpy as np
    from data_mirror import digits, idx_bytes
    from PIL import Image

    from trainer.data.formats import NPZ_MEMBERS

    arrays = digits(1, train=2, test=1)
    samples = [idx_bytes(arrays[1]), gzip.compress(idx_bytes(arrays[0]))]
    np.savez_compressed(archive := io.BytesIO(), **dict(zip(NPZ_MEMBERS, arrays, strict=True)))
    one = np.full((56, 56), 255, np.uint8)
    one[12:44, 26:31] = 0
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        Image.fromarray(one).save(picture := io.BytesIO(), kind)
        samples.append(picture.getvalue())
    return [*samples, archive.getvalue()]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        fuzz(int(sys.argv[1]), pathlib.Path(directory))
