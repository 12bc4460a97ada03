"""`trainer.predict`: pictures in, a table, JSON lines or annotated copies out, with SavedModels."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import runs
from PIL import Image, ImageColor, ImageDraw, ImageFont

from trainer import annotate, picture, predict
from trainer.process import command_line
from trainer.process.startup import import_tensorflow

NAMES = ("0148/a.png", "0148/deep/07/blank.JPG", "2026/a.png", "2026/b.png")


def printed(text: str) -> Image.Image:
    """A page with printed digits about 65 pixels high; a line break begins another line."""
    page = Image.new("L", (120 + 60 * len(text), 400), 255)
    ImageDraw.Draw(page).text((60, 50), text, 0, ImageFont.load_default(90), spacing=40)
    return page


def png(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def field_of(digit: int, content: bytes) -> np.ndarray:
    """The field, uint8 [28, 28], of the `digit` in an image file that shows nothing else."""

    def classify(fields):
        return np.full(len(fields), digit), np.eye(10, dtype=np.float32)[[digit] * len(fields)]

    [number] = picture.read_numbers(picture.decode(io.BytesIO(content)), classify)
    return number.digits[0].field


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
    export_templates(versions / "1000", {d: field_of(d, png(printed(str(d)))) for d in range(10)})
    export(versions / "999", np.zeros((784, 10)), 20.0 * (np.arange(10) == 0))
    (versions / "2000").mkdir()  # a copy under way: no saved_model.pb yet
    shutil.copytree(versions / "999", versions / ".partial-0a1b2c3d-3000")
    return directory


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """The pictures NAMES in folders named by their number; one is wrong there, one is blank."""
    for path, text in zip(NAMES, ["0148", "", "2026", "2028"], strict=True):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        printed(text).save(tmp_path / "in" / path)
    (tmp_path / "in/2026/notes.txt").write_text("no picture")
    shutil.copy(tmp_path / "in/2026/a.png", tmp_path / "in/2026/.hidden.png")
    shutil.copytree(tmp_path / "in/2026", tmp_path / "in/.thumbnails")
    return tmp_path / "in"


def call(*arguments: object) -> int:
    return command_line.main(predict.run, ["predict", *map(str, arguments)])


def test_json_has_an_object_a_picture_with_numbers_in_reading_order(run_dir, tmp_path, capsys):
    printed("0148").save(tmp_path / "one.png")
    printed("36\n2").save(tmp_path / "two.webp")
    assert call("--model_dir", run_dir, tmp_path, "--json") == 0
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(one) == ["file", "numbers"]
    assert [one["file"], two["file"]] == [str(tmp_path / "one.png"), str(tmp_path / "two.webp")]
    assert [number["number"] for number in two["numbers"]] == ["36", "2"]
    [number] = one["numbers"]
    assert list(number) == ["number", "confidence", "unsure", "box", "digits"]
    assert (number["number"], number["unsure"]) == ("0148", False)
    ink = printed("0148").point(lambda level: 255 - level).getbbox()
    np.testing.assert_allclose(number["box"], ink, atol=4)  # pixels: the soft edge of strokes
    for digit, expected in zip(number["digits"], [0, 1, 4, 8], strict=True):
        assert list(digit) == ["digit", "confidence", "box", "probabilities"]
        assert digit["digit"] == expected == np.argmax(digit["probabilities"])
        assert digit["confidence"] == max(digit["probabilities"])
        assert sum(digit["probabilities"]) == pytest.approx(1, abs=1e-5)  # rounded to 6 places


def test_a_table_grows_while_pictures_are_read_and_bad_ones_are_one_line_each(run_dir, tmp_path):
    odd, text, pipe = (str(tmp_path / name) for name in ("a\nb\x1b[31m.png", "no\n.png", "pipe"))
    printed("36\n2").save(odd)
    printed("").save(tmp_path / "blank.png")
    pathlib.Path(text).write_text("no image")
    os.mkfifo(pipe)
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "trainer.predict", f"--model_dir={run_dir}", odd, pipe, text]
    command += ["gone.png", tmp_path / "blank.png", tmp_path / "empty"]
    process = subprocess.Popen(command, cwd=runs.ROOT, stdout=-1, stderr=-1, text=True)
    impatience = threading.Timer(60, process.kill)  # it would wait for the second picture for ever
    impatience.start()
    header, *rows = (process.stdout.readline() for _ in range(3))
    impatience.cancel()
    assert "a\\nb\\x1b[31m.png" in rows[0]
    pathlib.Path(pipe).write_bytes(pathlib.Path(odd).read_bytes())  # the second picture, only now
    out, err = process.communicate()
    assert process.returncode == 3
    assert [line[:7] for line in err.splitlines()] == ["error: "] * 4, err
    assert "no\\n.png: is not an image" in err
    assert header.split() == ["file", "number", "confidence"]
    assert len(set(map(len, [header, *rows]))) == 1
    assert [row.split()[-2] for row in [*rows, *out.splitlines()]] == ["36", "2"] * 2


def test_an_evaluation_counts_numbers_and_digits_and_lists_the_mistakes(run_dir, folder, capsys):
    assert call("--model_dir", run_dir, folder, "--evaluate") == 3
    _, *mistakes, numbers, digits = capsys.readouterr().out.splitlines()
    assert [row.split()[1:] for row in mistakes] == [["07", "nothing"], ["2026", "2028"]]
    assert re.search(r"\b2 of 4 .*50\.0%", numbers)
    assert re.search(r"\b11 of 14 .*78\.6%", digits)


@pytest.mark.parametrize("inside", [False, True], ids=["elsewhere", "among the pictures"])
def test_folders_are_read_and_annotated_copies_replace_no_picture(run_dir, folder, inside, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = folder if inside else folder.parent / "out"
    for _ in range(2):  # again: the first copies are not taken for pictures
        assert call("--model_dir", run_dir, folder, "--annotate", out) == 3
        table, err = capsys.readouterr()
        files = [row.split()[0] for row in table.splitlines()[1:]]
        assert files == [str(folder / name) for name in NAMES if "blank" not in name]
        assert re.fullmatch("error: .*blank.JPG: .*\n", err)
        copies = {out / f"{name}.annotated.png" for name in NAMES}
        assert {path for path in out.rglob("*") if path.is_file()} - set(before) == copies
    assert all(path.read_bytes() == content for path, content in before.items())
    assert call("--model_dir", run_dir, folder / "2026", "--annotate", folder / "2026/a.png") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --annotate: ")


@pytest.mark.parametrize("unsure", [False, True])
@pytest.mark.parametrize("size", [(20, 24), (900, 100), (3000, 4000)])
def test_an_annotated_copy_shows_the_box_and_the_field_at_any_size(size, unsure):
    field = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
    box = (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2)
    digit = picture.Digit(7, 0.99, box, np.eye(10, dtype=np.float32)[7], field)
    number = picture.Number("7", 0.99, unsure, box, (digit,))
    half = np.full((size[1] // 2, size[0] // 2, 3), 255, np.uint8)
    content = annotate.annotate(picture.Picture(half, *size), [number])
    sheet = np.array(Image.open(io.BytesIO(content)))
    assert 200 < min(sheet.shape[:2]) < max(sheet.shape[:2]) < 2000
    seen = np.kron(field, np.ones((3, 3), np.uint8))
    distance = cv2.matchTemplate(sheet[..., 0].copy(), seen, cv2.TM_SQDIFF)
    assert distance.min() < seen.size  # rounding apart
    colours = [ImageColor.getrgb(each) for each in (annotate.SURE, annotate.UNSURE)]
    assert not (sheet == colours[not unsure]).all(-1).any()
    zoom = min(1000 / max(size), 4)  # of the whole picture; of its pixels 8 at most
    shown = sheet[:, : int(annotate.MARGIN + zoom * size[0])]
    corner = np.argwhere((shown == colours[unsure]).all(-1)).max(0)
    expected = annotate.MARGIN + zoom * np.array([box[3], box[2]])
    np.testing.assert_allclose(corner, expected, atol=6)  # the box stands off by 4 pixels


def test_the_model_may_be_a_saved_model_and_lie_wherever_tensorflow_reads(run_dir, folder, capsys):
    export("ram://elsewhere/saved_model/12", np.zeros((784, 10)), 20.0 * (np.arange(10) == 8))
    for model_dir, read in ((run_dir / "saved_model/999", "0000"), ("ram://elsewhere", "8888")):
        assert call("--model_dir", model_dir, folder / "2026/a.png", "--json") == 0
        assert json.loads(capsys.readouterr().out)["numbers"][0]["number"] == read
    assert call("--model_dir=ram://nowhere", folder / "2026/a.png") == 2


def test_wrong_command_lines_and_models_are_one_line_and_exit_2(run_dir, folder, tmp_path, capfd):
    shutil.copytree(run_dir / "saved_model" / "1000", tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"damaged")
    tf = import_tensorflow()
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    image, model = folder / "2026/a.png", f"--model_dir={run_dir}"
    for reason, arguments in {
        "the pictures are missing": [model],
        "no folder named by its number": [model, "--evaluate", image, folder / "a.png"],
        "holds no exported model": [f"--model_dir={tmp_path}", image],
        "cannot be read": ["--model_dir=nosuchscheme://bucket", image],
        "damaged' is not a digit classifier": [f"--model_dir={tmp_path}/damaged", image],
        "foreign' is not a digit classifier": [f"--model_dir={tmp_path}/foreign", image],
    }.items():
        assert call(*arguments) == 2
        out, err = capfd.readouterr()
        assert (out, err[:7], err.count("\n")) == ("", "error: ", 1)
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
