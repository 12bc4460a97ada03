"""`trainer.compare`: run directories in, a table and a picture out, without TensorFlow."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from PIL import Image

from trainer import compare

ROOT = pathlib.Path(__file__).parent.parent
HISTORY = "epoch,step,train_loss,train_accuracy,validation_loss,validation_accuracy\n"


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
    output = tmp_path / "out.png"
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
    assert "not finished: 2 of 2 epochs" in done.stdout
    assert "95.00% (+5.00%)" in done.stdout
    assert Image.open(output).format == "PNG"


def test_wrong_command_lines_are_one_line_and_exit_2(tmp_path, capsys):
    path = write(tmp_path / "one", rate=0.1, accuracy=0.9)
    for arguments in ([path], [path, path, "--output=x.json"], [path, path, "--outptu=x.png"]):
        assert compare.main(["compare", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
