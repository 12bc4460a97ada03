"""The pictures of a run: `predictions.png`, the report's figures as SVG, TensorBoard's pictures."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trainer.results.evaluation import Evaluation

# Okabe and Ito's palette for every kind of colour vision, https://jfly.uni-koeln.de/color/: blue is
# right or training, orange wrong or validation; text, line style or marker say the same.
INK, MUTED, LINE, BLUE, ORANGE = "#1b1b1b", "#595959", "#d9d9d9", "#0072B2", "#D55E00"
_STYLE = {
    # Verdana has DejaVu's widths; a browser that has neither takes a narrower font.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    **{"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"},
    **{"axes.titlelocation": "left", "legend.frameon": False},
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    # Hinting takes a fifth of the time of a picture full of captions.
    **{"text.color": INK, "text.hinting": "none"},
    **{"svg.fonttype": "none", "svg.hashsalt": "number-recognition-trainer"},
}
_DPI, _TOP = 100, 62  # the title of a figure of the report takes so many units of 0.01 inch
_SIZE = 5.4, 5.5  # inches
_TENSORBOARD = 350  # pixels: the width of TensorBoard's cards, which scale without smoothing
_CENTERED = {"ha": "center", "va": "center"}
# A digit and its caption in a mosaic, in pixels of the digit; each is drawn three units wide.
_CELL_WIDTH, _CELL_HEIGHT, _SCALE = 36, 41, 3

CAPTIONS = {
    "confusion_matrix": "What each digit was read as",
    "history": "Loss and accuracy by epoch",
    "mistakes": "The most confident mistakes",
    "calibration": "Is its confidence honest?",
}
_NOTES = {
    "confusion_matrix": "At the right: how many of each were read right.",
    "history": "Training: while it goes on. Validation: at the end of each epoch.",
    "mistakes": "{shown} of {mistakes:,}.",
    "calibration": "Confidence is off by {error:.1f} points on average.",
}


def predictions(images: np.ndarray, result: Evaluation, *, title: str) -> bytes:
    """Returns a PNG of the first 30 test digits, uint8 [n, 28, 28], and the 30 surest mistakes."""
    wrong, file = result.mistakes, io.BytesIO()
    sections = {"The first digits of the test set": np.arange(len(images))[:30]}
    if len(wrong):
        sections[f"The most confident of {len(wrong):,} mistakes"] = wrong[:30]
    with matplotlib.rc_context(_STYLE):
        figure = _digits(images, result, sections, columns=10, top=60, smooth=True)
        figure.axes[0].text(6, 40, title, size=15, weight="bold")
        FigureCanvasAgg(figure).print_png(file, pil_kwargs={"compress_level": 3})
    return file.getvalue()


def answer_pictures(images: np.ndarray, result: Evaluation) -> dict[str, np.ndarray]:
    """Returns TensorBoard's pictures, uint8 [h, w, 3]: confusion matrix, 8 surest mistakes."""
    drawn = {}
    with matplotlib.rc_context(_STYLE):
        # Most of the time goes into text, so the matrix has the numbers of frequent mistakes only.
        with matplotlib.rc_context({"font.size": 11}):
            drawn["confusion_matrix"] = _confusion(result.confusion, complete=False)
        if len(result.mistakes):
            drawn["mistakes"] = _digits(images, result, {"": result.mistakes[:8]}, columns=4)
        canvases = {name: FigureCanvasAgg(figure) for name, figure in drawn.items()}
        for canvas in canvases.values():
            # Not a whole number: one that rounding leaves just below would lose a pixel.
            canvas.figure.set_dpi((_TENSORBOARD + 0.1) / canvas.figure.get_figwidth())
            canvas.draw()
    return {name: np.asarray(c.buffer_rgba())[..., :3] for name, c in canvases.items()}


def mosaic(images: np.ndarray, columns: int, width: int = 28, height: int = 28) -> np.ndarray:
    """Returns digits, uint8 [n, 28, 28], in black cells: uint8 [rows * height, columns * width]."""
    rows = -(-len(images) // columns)
    cells = np.zeros((rows * columns, height, width), np.uint8)
    cells[: len(images), :28, :28] = images
    cells = cells.reshape(rows, columns, height, width).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width)


def report_figures(
    history: Sequence[Mapping[str, Any]], images: np.ndarray, result: Evaluation
) -> dict[str, str]:
    """Returns SVG by the names of `CAPTIONS`; images are test digits, uint8 [n, 28, 28]."""
    count, chosen = len(result.mistakes), {"": result.mistakes[:20]}
    values = {"shown": min(20, count), "mistakes": count, "error": 100 * result.calibration_error}
    with matplotlib.rc_context(_STYLE):
        drawn = {
            "confusion_matrix": _confusion(result.confusion, complete=True),
            "history": _history(history),
            "mistakes": _digits(images, result, chosen, columns=5, top=_TOP),
            "calibration": _calibration(result.reliability),
        }
        notes = {name: note.format(**values) for name, note in _NOTES.items()}
        return {name: _svg(drawn[name], CAPTIONS[name], notes[name]) for name in CAPTIONS}


def _svg(figure: Figure, title: str, note: str) -> str:
    unit = 1 / (figure.get_figheight() * _DPI)
    figure.text(0.01, 1 - 22 * unit, title, size=11, weight="bold")
    figure.text(0.01, 1 - 42 * unit, note, color=MUTED)
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata={"Title": title, **no_metadata})
    # Without XML declaration and document type; one image for a screen reader.
    return '<svg role="img" ' + file.getvalue().partition("<svg ")[2]


def percent(share: float) -> str:
    """Returns a share as a whole percentage, never rounded up to certainty."""
    return f"{min(int(share * 100 + 0.5), 99 if share < 1 else 100)} %"


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure and axes without ticks, their unit a pixel at 100 dpi, y downwards."""
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def _digits(
    images: np.ndarray,
    result: Evaluation,
    sections: Mapping[str, np.ndarray],
    *,
    columns: int,
    top: int = 6,
    smooth: bool = False,
) -> Figure:
    """Draws framed, captioned digits from `top` down: below each heading those of the indices."""
    width, height, edge = _CELL_WIDTH * _SCALE, _CELL_HEIGHT * _SCALE, 28 * _SCALE
    rows = sum(-(-len(chosen) // columns) for chosen in sections.values())
    figure, axes = _canvas(columns * width, top + 40 * sum(map(bool, sections)) + rows * height)
    style = {"norm": Normalize(0, 255), "interpolation": "bilinear" if smooth else "none"}
    frames, colors = [], []
    for heading, chosen in sections.items():
        axes.text(6, top + 22, heading, size=11, color=MUTED)
        top += 40 * bool(heading)
        paper = 255 - mosaic(images[chosen], columns, _CELL_WIDTH, _CELL_HEIGHT)
        bottom = top + paper.shape[0] * _SCALE
        if len(chosen):
            extent = (6, 6 + columns * width, bottom, top)
            axes.imshow(paper, "gray", extent=extent, aspect="auto", **style)
        for place, example in enumerate(chosen):
            x, y = 6 + place % columns * width, top + place // columns * height
            answer, label = result.probabilities[example], result.labels[example]
            right = answer.argmax() == label
            frames.append([(x, y), (x + edge, y), (x + edge, y + edge), (x, y + edge)])
            colors.append(LINE if right else ORANGE)
            text = f"read {answer.argmax()} ({percent(float(answer.max()))})"
            text, color = (text, BLUE) if right else (f"{text}\nis {label}", ORANGE)
            axes.text(x, y + edge + 6, text, va="top", color=color)
        top = bottom
    widths = [0.8 if color == LINE else 2.2 for color in colors]
    outlines = PolyCollection(frames, facecolors="none", edgecolors=colors, linewidths=widths)
    axes.add_collection(outlines, autolim=False)
    return figure


def _confusion(confusion: np.ndarray, *, complete: bool) -> Figure:
    """Draws the matrix; `complete` with each class's accuracy and the numbers of rare mistakes."""
    cell, edge, top = 43, 62, _TOP - 10 if complete else 0
    diagonal = np.eye(10, dtype=bool)
    wrong = np.where(diagonal, 0, confusion)
    recall = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    shares = np.where(diagonal, recall, np.sqrt(wrong / max(wrong.max(), 1)))
    tints = np.where(diagonal[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    right = 52 if complete else 8
    figure, axes = _canvas(edge + 10 * cell + right, top + edge + 10 * cell + 8)
    lines = edge + np.arange(11) * cell
    colors = 1 - 0.85 * shares[..., None] * (1 - tints)
    axes.pcolormesh(lines, top + lines, colors, edgecolors="white", linewidth=2)
    centers = lines[:10] + cell / 2
    axes.text(lines[5], top + 16, "read as", color=MUTED, **_CENTERED)
    axes.text(16, top + lines[5], "is", color=MUTED, **_CENTERED)
    for digit, center in enumerate(centers):
        axes.text(center, top + 46, digit, weight="bold", **_CENTERED)
        axes.text(46, top + center, digit, weight="bold", **_CENTERED)
        if complete:
            text = f"{recall[digit]:.1%}"
            axes.text(lines[10] + 26, top + center, text, color=MUTED, **_CENTERED)
    least = 1 if complete else max(1, wrong.max() / 3)
    for row, column in np.argwhere((confusion >= least) | diagonal & (confusion > 0)):
        color = "white" if row == column and recall[row] > 0.8 else INK
        x, y, number = centers[column], top + centers[row], confusion[row, column]
        axes.text(x, y, number, color=color, **_CENTERED)
    return figure


def _history(history: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(_SIZE, dpi=_DPI)
    room = {"left": 0.12, "right": 0.97, "top": 0.85, "bottom": 0.09, "hspace": 0.3}
    panels = figure.subplots(2, sharex=True, gridspec_kw=room)
    parts = {"training": ("train", BLUE, "o-"), "validation": ("validation", ORANGE, "s--")}
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for label, (part, color, line) in parts.items():
            values = [row[f"{part}_{name}"] for row in history]
            if values[-1] is not None:
                axes.plot(epochs, values, line, color=color, markersize=4, label=label)
        axes.set_title(name.capitalize())
        axes.grid()
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    panels[0].legend()
    panels[1].set_xlabel("epoch")
    panels[1].xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _calibration(reliability: np.ndarray) -> Figure:
    confidence, accuracy, counts = reliability.T
    figure = Figure(_SIZE, dpi=_DPI)
    axes = figure.add_axes((0.12, 0.09, 0.85, 0.78), xlim=(0, 1.04), ylim=(0, 1.04))
    axes.plot([0, 1], [0, 1], "--", color=MUTED, label="as confident as right")
    axes.vlines(confidence, confidence, accuracy, colors=ORANGE, linewidth=2, label="gap")
    sizes = 15 + 200 * np.sqrt(counts / counts.sum())
    axes.scatter(confidence, accuracy, sizes, color=BLUE, label="digits; larger: more")
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower right", markerscale=0.5)
    axes.grid()
    return figure
