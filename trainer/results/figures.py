"""The pictures of a run: `predictions.png`, the report's figures as SVG, TensorBoard's pictures.

Blue is right or training, orange is wrong or validation; text, line style or marker say the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trainer.results import evaluation
from trainer.results.evaluation import Evaluation

# Okabe and Ito's palette for every kind of colour vision: https://jfly.uni-koeln.de/color/
INK, MUTED, LINE, BLUE, ORANGE = "#1b1b1b", "#595959", "#d9d9d9", "#0072B2", "#D55E00"

_STYLE = {
    # Verdana has DejaVu's widths; a browser that has neither takes a narrower font.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial", "sans-serif"],
    **{"font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.titlelocation": "left"},
    **{"axes.titlesize": 10, "axes.titleweight": "bold", "legend.frameon": False},
    **{"axes.edgecolor": LINE, "axes.grid": True, "grid.color": LINE, "axes.axisbelow": True},
    **{"xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED},
    **{"ytick.labelcolor": MUTED, "xtick.major.size": 0, "ytick.major.size": 0},
    **{"svg.fonttype": "none", "svg.hashsalt": "number-recognition-trainer"},
}
_DPI = 100
_WIDTH = 520  # of a report figure, in hundredths of an inch: two side by side on a screen

# A digit and its caption in a mosaic, in pixels of the digit; each is drawn 3 units large.
_CELL_WIDTH, _CELL_HEIGHT, _SCALE = 36, 41, 3


class Chart(NamedTuple):
    """A figure of the report: its SVG, and what it shows in words."""

    svg: str
    description: str


def predictions(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, *, title: str
) -> bytes:
    """Returns a PNG of the first 30 test digits and of the 30 most confident mistakes.

    Args:
      images: uint8 [n, 28, 28].
      labels: integers [n].
      probabilities: float [n, 10].
      title: the first line.
    """
    columns, count = 10, 30
    wrong = evaluation.surest_mistakes(probabilities, labels)
    sections = [("The first digits of the test set", np.arange(min(count, len(labels))))]
    if len(wrong):
        which = "all" if len(wrong) <= count else f"the {count} most confident of"
        sections.append((f"Mistakes: {which} {len(wrong):,}", wrong[:count]))
    rows = sum(-(-len(chosen) // columns) for _, chosen in sections)
    height = 60 + 40 * len(sections) + rows * _CELL_HEIGHT * _SCALE
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(columns * _CELL_WIDTH * _SCALE + 12, height)
        axes.text(18, 40, title, size=15, weight="bold")
        top = 60
        for heading, chosen in sections:
            axes.text(18, top + 22, heading, size=11, color=MUTED)
            top = _draw_digits(
                axes, images[chosen], labels[chosen], probabilities[chosen], top + 40, columns
            )
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def mosaic(images: np.ndarray, columns: int, width: int = 29, height: int = 29) -> np.ndarray:
    """Returns digits, uint8 [n, 28, 28], in rows of cells of `height` x `width` pixels, on black.

    Returns:
      uint8 [rows * height, columns * width]; the gap is to the right of a digit and below it.
    """
    rows = -(-len(images) // columns)
    cells = np.zeros((rows * columns, height, width), np.uint8)
    cells[: len(images), :28, :28] = images
    return cells.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)


def captioned_digits(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Returns digits with what was read, how surely, and what is right, as uint8 [h, w, 3]."""
    with matplotlib.rc_context(_STYLE):
        return _pixels(_digits_figure(images, labels, probabilities, columns=8))


def confusion_picture(confusion: np.ndarray) -> np.ndarray:
    """Returns a confusion matrix, int [10, 10], as a picture, uint8 [h, w, 3]."""
    with matplotlib.rc_context(_STYLE):
        return _pixels(_confusion(confusion))


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def report_charts(
    history: Sequence[Mapping[str, Any]],
    images: np.ndarray,
    labels: np.ndarray,
    result: Evaluation,
) -> dict[str, Chart]:
    """Draws the figures of a finished run.

    Args:
      history: a row an epoch, as in `history.csv`.
      images: test digits, uint8 [n, 28, 28].
      labels: integers [n].
      result: of the test digits, calibrated.
    """
    total, right = len(labels), len(labels) - result.mistakes
    surest = evaluation.surest_mistakes(result.probabilities, labels)[:24]
    read = result.probabilities[surest].argmax(1)
    hardest = min(evaluation.class_table(result.confusion), key=lambda row: row["recall"])
    last = ", ".join(
        f"{key.replace('_', ' ')} {value:.4g}"
        for key, value in history[-1].items()
        if value is not None
    )
    pairs = "; ".join(f"{is_} read as {as_}" for is_, as_ in zip(labels[surest], read, strict=True))

    def draw_mistakes() -> Figure:
        chosen = images[surest], labels[surest], result.probabilities[surest]
        return _digits_figure(*chosen, columns=6, interpolation="none")

    drawings: Mapping[str, tuple[Callable[[], Figure], str]] = {
        "confusion_matrix": (
            lambda: _confusion(result.confusion),
            f"Confusion matrix: {right:,} of {total:,} digits are on the diagonal, read right.",
        ),
        "history": (lambda: _history(history), f"Curves by epoch; the last epoch: {last}."),
        "per_class": (
            lambda: _per_class(result.confusion),
            f"Share of each digit read right; the lowest is that of {hardest['digit']},"
            f" {hardest['recall']:.1%} of {hardest['examples']:,}.",
        ),
        "calibration": (
            lambda: _calibration(evaluation.reliability(result.probabilities, labels)),
            "Reliability diagram: accuracy by confidence; expected calibration error"
            f" {result.calibration_error:.2%}.",
        ),
        "mistakes": (draw_mistakes, f"The most confident mistakes: {pairs or 'there are none'}."),
    }
    with matplotlib.rc_context(_STYLE):
        return {name: _chart(draw(), text) for name, (draw, text) in drawings.items()}


def _chart(figure: Figure, description: str) -> Chart:
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=no_metadata)
    svg = file.getvalue().partition("<svg ")[2]  # without the XML declaration
    label = escape(description, quote=True)
    return Chart(f'<svg role="img" aria-label="{label}" {svg}', description)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure and axes that fill it, whose unit is a pixel at 100 dpi, y downwards."""
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _digits_figure(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    columns: int,
    interpolation: str = "bicubic",
) -> Figure:
    rows = -(-len(images) // columns)
    figure, axes = _canvas(columns * _CELL_WIDTH * _SCALE, max(rows, 1) * _CELL_HEIGHT * _SCALE)
    if rows:
        _draw_digits(axes, images, labels, probabilities, 6, columns, interpolation)
    else:
        axes.text(18, 40, "Not one mistake in the test set.", size=13)
    return figure


def _draw_digits(
    axes: Axes,
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    top: float,
    columns: int,
    interpolation: str = "bicubic",
) -> float:
    """Draws framed, captioned digits from `top` down; returns where they end."""
    left, side, width, height = 12, 28 * _SCALE, _CELL_WIDTH * _SCALE, _CELL_HEIGHT * _SCALE
    paper = 255 - mosaic(images, columns, _CELL_WIDTH, _CELL_HEIGHT)
    bottom = top + paper.shape[0] * _SCALE
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        paper,
        cmap="gray",
        vmin=0,
        vmax=255,
        aspect="auto",
        interpolation=interpolation,
        extent=(left, left + paper.shape[1] * _SCALE, bottom, top),
    )
    axes.set(xlim=limits[0], ylim=limits[1])
    places = np.arange(len(images))
    x, y = left + places % columns * width, top + places // columns * height
    corners = np.stack([[x, x + side, x + side, x], [y, y, y + side, y + side]], -1).swapaxes(0, 1)
    read = probabilities.argmax(1)
    right = read == labels
    axes.add_collection(
        PolyCollection(
            corners,
            facecolors="none",
            edgecolors=np.where(right, LINE, ORANGE),
            linewidths=np.where(right, 0.8, 2.2),
        ),
        autolim=False,
    )
    for place in places:
        text = f"read {read[place]} ({percent(float(probabilities[place].max()))})"
        if not right[place]:
            text += f"\nis {labels[place]}"
        color, weight = (BLUE, "normal") if right[place] else (ORANGE, "bold")
        axes.text(x[place], y[place] + side + 5, text, va="top", color=color, weight=weight)
    return bottom


def percent(share: float) -> str:
    """Returns a share as a whole percentage, never rounded up to certainty."""
    return f"{min(int(share * 100 + 0.5), 99 if share < 1 else 100)} %"


def _confusion(confusion: np.ndarray) -> Figure:
    right = np.eye(10, dtype=bool)
    wrong = np.where(right, 0, confusion)
    shares = np.where(
        right,
        confusion / np.maximum(confusion.sum(1, keepdims=True), 1),
        np.sqrt(wrong / max(wrong.max(), 1)),
    )[..., None]
    colors = np.where(right[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    figure = Figure((_WIDTH / _DPI, _WIDTH / _DPI), dpi=_DPI)
    axes = figure.add_axes((0.09, 0.02, 0.89, 0.89))
    axes.grid(False)
    axes.pcolormesh(1 - 0.85 * shares * (1 - colors), edgecolors="white", linewidth=2)
    digits = np.arange(10)
    axes.set_xticks(digits + 0.5, digits)
    axes.set_yticks(digits + 0.5, digits)
    axes.set(xlabel="read as", ylabel="is")
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(confusion):
        color = "white" if row == column and shares[row, column] > 0.8 else INK
        text = str(confusion[row, column])
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color)
    return figure


def _history(history: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure((_WIDTH / _DPI, 5.6), dpi=_DPI)
    panels = figure.subplots(3, sharex=True)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.95, bottom=0.08, hspace=0.35)
    styles = {"train": ("training", BLUE, "o-"), "validation": ("validation", ORANGE, "s--")}
    epochs = [row["epoch"] for row in history]
    for axes, measure in zip(panels, ("loss", "accuracy"), strict=False):
        for part, (name, color, style) in styles.items():
            values = [row[f"{part}_{measure}"] for row in history]
            if None not in values:
                axes.plot(epochs, values, style, color=color, label=name, markersize=4)
        axes.set_title(measure.capitalize())
        axes.legend()
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    panels[2].plot(epochs, [row["learning_rate"] for row in history], "o-", color=BLUE, ms=4)
    panels[2].set(title="Learning rate at the end of the epoch", xlabel="epoch")
    for axes in panels:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
    panels[2].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def _per_class(confusion: np.ndarray) -> Figure:
    rows = evaluation.class_table(confusion)
    recalls = [row["recall"] for row in rows]
    low = np.floor(20 * min(0.9, *recalls)) / 20
    figure = Figure((_WIDTH / _DPI, 4), dpi=_DPI)
    axes = figure.add_axes((0.07, 0.12, 0.4, 0.76), xlim=(low, 1), title="Share read right")
    axes.barh(range(10), recalls, color=BLUE, height=0.6)
    axes.set_yticks(range(10), range(10))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    columns = (
        ("of tests", "{examples:,}"),
        ("missed", "{missed}"),
        ("most often as", "{mistaken_for}"),
    )
    places = axes.get_yaxis_transform()
    for x, (heading, template) in zip((1.45, 1.8, 2.4), columns, strict=True):
        axes.text(x, -0.9, heading, transform=places, ha="right", weight="bold")
        for y, row in enumerate(rows):
            axes.text(x, y, template.format(**row), transform=places, ha="right", va="center")
    return figure


def _calibration(points: np.ndarray) -> Figure:
    confidence, accuracy, counts = points.T
    figure = Figure((_WIDTH / _DPI, 4.4), dpi=_DPI)
    axes = figure.add_axes((0.12, 0.12, 0.84, 0.84), xlim=(0, 1.03), ylim=(0, 1.03))
    axes.plot([0, 1], [0, 1], "--", color=MUTED, label="as often right as confident")
    axes.vlines(confidence, confidence, accuracy, colors=ORANGE, linewidth=2, label="gap")
    sizes = 20 + 200 * np.sqrt(counts / counts.sum())
    axes.scatter(confidence, accuracy, sizes, color=BLUE, label="digits (larger: more)")
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left")
    return figure
