"""`trainer.predict`: image files in, a table or JSON lines out, with a real SavedModel and real
processes.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer import picture, predict
from trainer.process.startup import import_tensorflow

ROOT = pathlib.Path(__file__).parent.parent


def drawn(digit: int, shift: int = 0) -> np.ndarray:
    """A printed digit, ink 255 on 0, uint8 [200, 160]."""
    image = Image.new("L", (32, 40))
    ImageDraw.Draw(image).text((12 + shift, 12), str(digit), fill=255)
    return np.asarray(image.resize((160, 200), Image.Resampling.BICUBIC))


def idx(name: str) -> np.ndarray:
    """The body of one of the IDX files of MNIST, flat."""
    directory = os.environ.get("MNIST_DATA_DIR")
    if not directory:
        pytest.skip("MNIST_DATA_DIR is not set: no real MNIST to read")
    with gzip.open(pathlib.Path(directory, name)) as file:
        return np.frombuffer(file.read(), np.uint8, offset=16 if "images" in name else 8)


def export(
    directory: pathlib.Path | str,
    kernel: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray | None = None,
) -> None:
    """Writes a classifier of pixels in 0 to 1 with the contract's signature.

    It is linear, kernel [784, 10] and bias [10], unless rectified `hidden` features [784, m] stand
    before the kernel.
    """
    tf = import_tensorflow()
    module = tf.Module()
    module.kernel, module.bias = (
        tf.Variable(kernel, dtype=tf.float32),
        tf.Variable(bias, dtype=tf.float32),
    )

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28], tf.uint8, "images")])
    def serve(images):
        inputs = tf.reshape(tf.cast(images, tf.float32) / 255, [-1, 784])
        if hidden is not None:
            inputs = tf.nn.relu(inputs @ tf.constant(hidden, tf.float32))
        probabilities = tf.nn.softmax(inputs @ module.kernel + module.bias)
        return {"classes": tf.argmax(probabilities, -1), "probabilities": probabilities}

    tf.saved_model.save(module, str(directory), signatures={"serving_default": serve})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> pathlib.Path:
    """A run directory whose newest export, step 1000, knows the printed digits; step 999 calls
    everything a 0.
    """
    directory = tmp_path_factory.mktemp("run")
    for digit in range(10):
        Image.fromarray(drawn(digit)).save(directory / f"{digit}.png")
    digits = [picture.read_digit(str(directory / f"{digit}.png")) for digit in range(10)]
    templates = np.stack(digits).reshape(10, 784) / 255.0
    versions = directory / "saved_model"
    export(versions / "1000", templates.T * 2, -np.sum(templates**2, axis=1))
    export(versions / "999", np.zeros((784, 10)), np.arange(10) == 0)
    (versions / "2000").mkdir()  # a copy under way: no saved_model.pb yet
    shutil.copytree(versions / "999", versions / "3000.partial-0a1b2c3d")
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    """Files of the printed digits 0 to 9, every other one dark on light."""
    directory = tmp_path_factory.mktemp("pictures")
    for digit in range(10):
        image = drawn(digit, shift=digit - 5)
        Image.fromarray(255 - image if digit % 2 else image).save(directory / f"{digit}.png")
    return [str(directory / f"{digit}.png") for digit in range(10)]


def call(*arguments: str) -> int:
    return predict.main(["predict", *arguments])


def test_json_lines_name_file_digit_confidence_and_probabilities(run_dir, pictures, capsys):
    assert call("--model_dir", str(run_dir), *pictures, "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == pictures
    assert [answer["digit"] for answer in answers] == list(range(10))
    for answer in answers:
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)  # rounded to 6 places
        assert (
            answer["confidence"]
            == answer["probabilities"][answer["digit"]]
            == max(answer["probabilities"])
        )


def test_a_file_named_twice_is_answered_twice(run_dir, pictures, capsys):
    assert call("--model_dir", str(run_dir), pictures[3], pictures[3], "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["digit"] for answer in answers] == [3, 3]


def test_a_digit_of_mnist_as_a_file_of_28_by_28_pixels_is_read_as_it_is(tmp_path):
    digits = idx("t10k-images-idx3-ubyte.gz").reshape(-1, 28, 28)[:200]
    for number, digit in enumerate(digits):
        path = tmp_path / f"{number}.png"
        Image.fromarray(digit).save(path)
        read = picture.read_digit(str(path)).astype(int)
        # Cut off: levels too faint to be a stroke. A centre of mass between two pixels may go to
        # the other one.
        shifted = [np.roll(read, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        assert min(np.abs(each - digit).max() for each in shifted) <= 26


def test_a_process_answers_good_files_in_an_aligned_table_and_bad_ones_with_one_line_each(
    run_dir, pictures, tmp_path
):
    odd = tmp_path / "a\nb\x1b[31m.png"
    shutil.copy(pictures[7], odd)
    (tmp_path / "text\n.png").write_text("no image")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    files = [
        pictures[3],
        str(tmp_path / "text\n.png"),
        str(tmp_path),
        str(tmp_path / "blank.png"),
        "gone.png",
        str(odd),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.predict", f"--model_dir={run_dir}", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    errors = done.stderr.splitlines()
    assert [line[:7] for line in errors] == ["error: "] * 4, done.stderr
    for line, reason in zip(
        errors,
        [
            "text\\n.png: is not a PNG",
            "Is a directory",
            "shows no digit",
            "gone.png: cannot",
        ],
        strict=True,
    ):
        assert reason in line
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["file", "digit", "confidence", "second", "choice"]
    assert len(rows) == 2
    assert rows[0].startswith(pictures[3])
    assert "a\\nb\\x1b[31m.png" in rows[1]
    assert [row[header.index("digit") : header.index("digit") + 5].strip() for row in rows] == [
        "3",
        "7",
    ]


def test_a_saved_model_directory_is_taken_as_it_is(run_dir, pictures, capsys):
    assert call("--model_dir", str(run_dir / "saved_model" / "999"), pictures[4], "--json") == 0
    assert json.loads(capsys.readouterr().out)["digit"] == 0


def test_the_model_may_live_wherever_tensorflow_reads(pictures, capsys):
    export("ram://elsewhere/saved_model/12", np.zeros((784, 10)), np.arange(10) == 8)
    assert call("--model_dir=ram://elsewhere", pictures[0], "--json") == 0
    assert json.loads(capsys.readouterr().out)["digit"] == 8
    assert call("--model_dir=ram://nowhere", pictures[0]) == 2
    assert call("--model_dir=nosuchscheme://bucket", pictures[0]) == 2


def test_wrong_command_lines_are_one_line_and_exit_2(run_dir, pictures, tmp_path, capsys):
    (tmp_path / "file").touch()
    wrong = {
        "--model_dir is missing": [pictures[0]],
        "no images given": ["--model_dir", str(run_dir)],
        "does not exist": [f"--model_dir={tmp_path}/gone", pictures[0]],
        "holds no exported model": [f"--model_dir={tmp_path}", pictures[0]],
        "cannot be read": [f"--model_dir={tmp_path}/file", pictures[0]],
        "Unknown command line flag": [f"--model_dir={run_dir}", "--modle", pictures[0]],
        "--json": [f"--model_dir={run_dir}", "--json=perhaps", pictures[0]],
    }
    for reason, arguments in wrong.items():
        assert call(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert reason in err
        assert err.startswith("error: ")


def test_a_damaged_or_foreign_model_is_one_line_and_exit_2(run_dir, pictures, tmp_path, capfd):
    shutil.copytree(run_dir / "saved_model" / "1000", tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"damaged")
    tf = import_tensorflow()
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    for name in ("damaged", "foreign"):
        assert call(f"--model_dir={tmp_path / name}", pictures[0]) == 2
        err = capfd.readouterr().err.splitlines()
        assert len(err) == 1
        assert "is not a digit classifier" in err[0]


def test_help_and_wrong_flags_answer_without_tensorflow_and_opencv(run_dir):
    script = (
        "import sys; from trainer import predict;"
        " codes = [predict.main(['predict', *a.split()]) for a in sys.argv[1:]];"
        " print(codes, {'tensorflow', 'cv2', 'PIL', 'numpy'} & set(sys.modules))"
    )
    calls = [
        "--help",
        "--nonsense",
        "image.png",
        f"--model_dir={run_dir}",
        "--model_dir=/nonexistent image.png",
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *calls], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 2, 2, 2, 2] set()", done.stderr
    assert "--model_dir" in done.stdout


def random_features(digits: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """A trained `export` in a second: ridge regression on 1,000 random rectified features of each
    digit.
    """
    hidden = np.random.default_rng(1).normal(0, 0.1, (784, 1000)).astype(np.float32)
    seen = np.maximum(digits.reshape(-1, 784).astype(np.float32) / 255 @ hidden, 0)
    target = np.eye(10, dtype=np.float32)[labels] - 0.1
    kernel = np.linalg.solve(seen.T @ seen + 10 * np.eye(1000), seen.T @ target)
    return [10 * kernel, np.ones(10), hidden]


def test_real_digits_photographed_on_paper_are_read_as_well_as_their_arrays(tmp_path):
    digits = idx("train-images-idx3-ubyte.gz").reshape(-1, 28, 28)
    labels = idx("train-labels-idx1-ubyte.gz")
    export(tmp_path / "model", *random_features(digits[:10000], labels[:10000]))
    shown, truth = digits[-200:], labels[-200:]
    classify = predict.load_classifier(str(tmp_path / "model"))
    plain, _ = classify(shown)
    random = np.random.default_rng(1)
    files = []
    for number, digit in enumerate(shown):
        ink = np.asarray(Image.fromarray(digit).resize((140, 140), Image.Resampling.BICUBIC))
        ink = np.pad(ink, [(20, 60), (80, 20)])
        light = 1 - 0.35 * np.linspace(0, 1, ink.shape[1])
        photo = (220 - 0.65 * ink) * light + random.normal(0, 6, ink.shape)
        files.append(str(tmp_path / f"{number}.jpg"))
        Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).save(files[-1], quality=80)
    read, _ = classify(np.stack([picture.read_digit(file) for file in files]))
    # A small model that never saw a shifted digit: 2 points are 4 digits of 200.
    assert np.mean(read == truth) >= np.mean(plain == truth) - 0.02
