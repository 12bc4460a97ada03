"""`trainer.predict`: image files in, a table or JSON lines out, with real SavedModels."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import runs
from PIL import Image, ImageDraw
from test_picture import enlarged, on_paper

from trainer import data, picture, predict
from trainer.process import command_line
from trainer.process.startup import import_tensorflow


def drawn(digit: int, shift: int = 0) -> Image.Image:
    """A printed digit, white on black, 160 x 200 pixels."""
    image = Image.new("L", (32, 40))
    ImageDraw.Draw(image).text((12 + shift, 12), str(digit), fill=255)
    return image.resize((160, 200), Image.Resampling.BICUBIC)


def export(directory: pathlib.Path | str, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Writes a linear classifier, kernel [784, 10] and bias [10], with the contract's signature."""
    tf = import_tensorflow()
    module = tf.Module()
    module.weights = [tf.Variable(array, dtype=tf.float32) for array in (kernel, bias)]

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28], tf.uint8, "images")])
    def serve(images):
        inputs = tf.reshape(tf.cast(images, tf.float32) / 255, [-1, 784])
        probabilities = tf.nn.softmax(inputs @ module.weights[0] + module.weights[1])
        return {"classes": tf.argmax(probabilities, -1), "probabilities": probabilities}

    tf.saved_model.save(module, str(directory), signatures={"serving_default": serve})


def export_templates(directory: pathlib.Path | str, digits: dict[int, np.ndarray]) -> None:
    """Writes a classifier that reads what is nearest to one of `digits`, uint8 [28, 28] each."""
    kernel, bias = np.zeros((784, 10)), np.full(10, -1e3)
    for digit, image in digits.items():
        template = image.ravel() / 255
        kernel[:, digit], bias[digit] = 2 * template, -np.sum(template**2)
    export(directory, kernel, bias)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> pathlib.Path:
    """A run whose newest export, step 1000, knows printed digits; step 999 reads 0 always."""
    directory = tmp_path_factory.mktemp("run")
    versions = directory / "saved_model"
    digits = {}
    for digit in range(10):
        drawn(digit).save(directory / "template.png")
        digits[digit] = picture.read_digit(str(directory / "template.png"))
    export_templates(versions / "1000", digits)
    export(versions / "999", np.zeros((784, 10)), np.arange(10) == 0)
    (versions / "2000").mkdir()  # a copy under way: no saved_model.pb yet
    shutil.copytree(versions / "999", versions / ".partial-0a1b2c3d-3000")
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    """Files of the printed digits 0 to 9, each elsewhere in its picture."""
    paths = [tmp_path_factory.mktemp("pictures") / f"{digit}.png" for digit in range(10)]
    for digit, path in enumerate(paths):
        drawn(digit, shift=digit - 5).save(path)
    return [str(path) for path in paths]


def call(*arguments: str) -> int:
    return command_line.main(predict.run, ["predict", *arguments])


def test_json_lines_name_file_digit_confidence_and_probabilities(run_dir, pictures, capsys):
    assert call("--model_dir", str(run_dir), *pictures, "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == pictures
    assert [answer["digit"] for answer in answers] == list(range(10))
    for answer in answers:
        shares = answer["probabilities"]
        assert sum(shares) == pytest.approx(1, abs=1e-5)  # rounded to 6 places
        assert answer["confidence"] == shares[answer["digit"]] == max(shares)


def test_good_files_are_answered_in_an_aligned_table_and_bad_ones_with_one_line_each(
    run_dir, pictures, tmp_path
):
    odd, text = str(tmp_path / "a\nb\x1b[31m.png"), tmp_path / "text\n.png"
    shutil.copy(pictures[7], odd)
    text.write_text("no image")
    command = [sys.executable, "-m", "trainer.predict", f"--model_dir={run_dir}"]
    files = [pictures[3], str(text), "gone.png", odd]
    done = subprocess.run([*command, *files], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "] * 2
    assert "text\\n.png: is not a PNG" in done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["file", "digit", "confidence", "second", "choice"]
    assert rows[0].startswith(pictures[3])
    assert "a\\nb\\x1b[31m.png" in rows[1]
    column = slice(header.index("digit"), header.index("digit") + 5)
    assert [row[column].strip() for row in rows] == ["3", "7"]


def test_a_saved_model_directory_is_taken_as_it_is(run_dir, pictures, capsys):
    assert call("--model_dir", str(run_dir / "saved_model" / "999"), pictures[4], "--json") == 0
    assert json.loads(capsys.readouterr().out)["digit"] == 0


def test_the_model_may_live_wherever_tensorflow_reads(pictures, capsys):
    export("ram://elsewhere/saved_model/12", np.zeros((784, 10)), np.arange(10) == 8)
    assert call("--model_dir=ram://elsewhere", pictures[0], "--json") == 0
    assert json.loads(capsys.readouterr().out)["digit"] == 8
    assert call("--model_dir=ram://nowhere", pictures[0]) == 2


def test_wrong_command_lines_and_models_are_one_line_and_exit_2(run_dir, pictures, tmp_path, capfd):
    shutil.copytree(run_dir / "saved_model" / "1000", tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"damaged")
    tf = import_tensorflow()
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    for reason, arguments in {
        "--model_dir or": [pictures[0]],
        "the images are missing": ["--model_dir", str(run_dir)],
        "holds no exported model": [f"--model_dir={tmp_path}", pictures[0]],
        "cannot be read": ["--model_dir=nosuchscheme://bucket", pictures[0]],
        "damaged' is not a digit classifier": [f"--model_dir={tmp_path}/damaged", pictures[0]],
        "foreign' is not a digit classifier": [f"--model_dir={tmp_path}/foreign", pictures[0]],
    }.items():
        assert call(*arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert reason in err


def test_help_and_wrong_flags_answer_without_tensorflow():
    done = runs.python(
        """
        import sys
        from trainer import predict
        from trainer.process import command_line

        for arguments in ("--help", "--nonsense", "image.png", "--model_dir=/nonexistent 3.png"):
            print(command_line.main(predict.run, ["predict", *arguments.split()]))
        print("tensorflow" in sys.modules)
        """
    )
    out, err = done.communicate()
    assert out.splitlines()[-5:] == ["0", "2", "2", "2", "False"], err
    assert "--model_dir" in out


@pytest.mark.slow
def test_a_trained_cnn_reads_49_of_50_photographed_digits(mnist_dir, tmp_path, capsys):
    """`CNN_RUN` may name a finished run of `--model=cnn`; else one of 5 epochs is made here."""
    run = os.environ.get("CNN_RUN", str(tmp_path / "cnn"))
    if "CNN_RUN" not in os.environ:
        flags = ["--model=cnn", "--epochs=5", f"--data_dir={mnist_dir}", f"--model_dir={run}"]
        subprocess.run([sys.executable, "-m", "trainer.task", *flags], cwd=runs.ROOT, check=True)
    digits = data.load("mnist", str(mnist_dir))
    paths = [str(tmp_path / f"{number}.jpg") for number in range(50)]
    for path, image in zip(paths, digits.test_images, strict=False):
        Image.fromarray(on_paper(enlarged(image))).save(path, quality=80)
    assert call(f"--model_dir={run}", *paths, "--json") == 0
    read = [json.loads(line)["digit"] for line in capsys.readouterr().out.splitlines()]
    assert np.sum(read == digits.test_labels[:50]) >= 49
