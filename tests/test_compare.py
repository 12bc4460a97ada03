"""`trainer.compare`: run directories in, a table and a picture out, without TensorFlow."""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET

from trainer import charts, compare

ROOT = pathlib.Path(__file__).parent.parent
HISTORY = "epoch,step,train_loss,train_accuracy,validation_loss,validation_accuracy\n"


def texts(svg: str) -> list[str]:
    return [each.text for each in ET.fromstring(svg).iter() if each.tag.endswith("}text")]


def write(directory: pathlib.Path, *, rate: float, accuracy: float, finished: bool = True) -> str:
    directory.mkdir()
    config = {"model": "mlp", "epochs": 2, "learning_rate": rate, "model_dir": str(directory)}
    record = {"config": config, "settled": {"precision": "float32"}, "data": {"sha256": {}}}
    (directory / "config.json").write_text(json.dumps(record))
    (directory / "history.csv").write_text(HISTORY + "1,10,0.5,0.8,0.4,0.9\n2,20,0.3,0.9,,\n")
    if finished:
        metrics = {"finished": True, "epochs": 2, "test_accuracy": accuracy}
        (directory / "metrics.json").write_text(json.dumps(metrics))
    return str(directory)


def test_a_process_shows_what_differs_without_tensorflow_and_names_what_it_cannot_read(tmp_path):
    paths = [
        write(tmp_path / "one", rate=0.1, accuracy=0.9),
        write(tmp_path / "two", rate=0.2, accuracy=0.95),
        write(tmp_path / "half", rate=0.2, accuracy=0, finished=False),
        write(tmp_path / "damaged", rate=0.2, accuracy=0.9),
    ]
    (tmp_path / "damaged" / "history.csv").write_text(HISTORY + "1,ten,\n")
    script = (
        "import sys; from trainer import compare; code = compare.main(sys.argv);"
        " assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    output = tmp_path / "out.svg"
    done = subprocess.run(
        [sys.executable, "-c", script, *paths, str(tmp_path / "gone"), f"--output={output}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert "damaged" in errors[0]
    assert "holds no run" in errors[1]
    assert ["learning_rate", "0.1", "0.2", "0.2"] in map(str.split, done.stdout.splitlines())
    assert "precision" not in done.stdout
    assert "model_dir" not in done.stdout  # where a run is makes no difference
    assert "not finished: 2 of 2 epochs" in done.stdout
    assert "95.00% (+5.00 pp)" in done.stdout
    said = texts(output.read_text())
    names = [text.rpartition("/")[2] for text in said]
    assert names[-7:-1] == ["1", "one", "2", "two", "3", "half"]  # and what dashes mean


def test_each_run_has_its_curves_and_its_number_where_they_end() -> None:
    short = [{"epoch": 1, "train_loss": 0.5, "validation_loss": 0.4}]
    long = [*short, {"epoch": 2, "train_loss": 0.2}]  # one more that was not validated
    svg = charts.compared([("short", short), ("long", long), ("nothing", [])])
    lines = [each for each in ET.fromstring(svg).iter() if each.tag.endswith("polyline")]
    points = [line.get("points").split() for line in lines]
    assert [len(each) for each in points] == [1, 1, 2, 1]
    assert points[0] == points[2][:1]  # the same epoch, the same value
    assert [line.get("stroke-dasharray") is None for line in lines] == [True, False] * 2
    colours = [line.get("stroke") for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert "not measured" in texts(svg)  # accuracy


def test_numbers_of_curves_that_end_together_stand_apart_beside_their_panel() -> None:
    history = [
        {"epoch": 1, "validation_loss": 0.9, "validation_accuracy": 0.5},
        {"epoch": 2, "validation_loss": 0.1, "validation_accuracy": 0.9},
    ]
    drawn = ET.fromstring(charts.compared([(f"run {number}", history) for number in range(9)]))
    written = [each for each in drawn.iter() if each.tag.endswith("text")]
    heights = sorted(float(each.get("y")) for each in written if each.get("x") == "390")
    assert len(heights) == 18  # nine in each panel
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 14
    # Losses end at the lower edge of their panel, accuracies at the upper edge of theirs.
    (between,) = (float(each.get("y")) for each in written if each.text == "Accuracy")
    assert heights[8] < between - 20
    assert heights[9] > between + 20


def test_wrong_command_lines_are_one_line_and_exit_2(tmp_path, capsys):
    path = write(tmp_path / "one", rate=0.1, accuracy=0.9)
    for arguments in ([path], [path, path, "--output=x.json"], [path, path, "--outptu=x.svg"]):
        assert compare.main(["compare", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
