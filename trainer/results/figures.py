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
_DPI = 100
_SIDE, _TOP = 560, 62  # of a figure of the report, in its pixels; room for its title
# TensorBoard shows pictures as wide as this, and scales others without smoothing.
_TENSORBOARD_WIDTH = 350
_CENTERED = {"ha": "center", "va": "center"}

CAPTIONS = {
    "confusion_matrix": "What each digit was read as",
    "history": "Loss and accuracy by epoch",
    "mistakes": "The most confident mistakes",
    "calibration": "Is its confidence honest?",
}


def predictions(images: np.ndarray, result: Evaluation, *, title: str) -> bytes:
    """Returns a PNG of the first 30 test digits, uint8 [n, 28, 28], and the 30 surest mistakes."""
    wrong, file = result.mistakes, io.BytesIO()
    which = "all" if len(wrong) <= 30 else "the 30 most confident of"
    sections = {"The first digits of the test set": np.arange(len(images))[:30]}
    if len(wrong):
        sections[f"Mistakes: {which} {len(wrong):,}"] = wrong[:30]
    with matplotlib.rc_context(_STYLE):
        figure = _digits(images, result, sections, width=1086, columns=10, top=60, smooth=True)
        figure.axes[0].text(6, 40, title, size=15, weight="bold")
        FigureCanvasAgg(figure).print_png(file, pil_kwargs={"compress_level": 3})
    return file.getvalue()


def answer_pictures(images: np.ndarray, result: Evaluation) -> dict[str, np.ndarray]:
    """Returns TensorBoard's pictures, uint8 [h, w, 3]: confusion matrix, 8 surest mistakes."""
    width, chosen = _TENSORBOARD_WIDTH, {"": result.mistakes[:8]}
    with matplotlib.rc_context(_STYLE | {"font.size": 8}):
        # Most of the time goes into text, so the matrix has the numbers of frequent mistakes only.
        drawn = {"confusion_matrix": _confusion(result.confusion, width=width, cell=30, edge=42)}
        if len(result.mistakes):
            drawn["mistakes"] = _digits(images, result, chosen, width=width, columns=4, scale=2)
        canvases = {name: FigureCanvasAgg(figure) for name, figure in drawn.items()}
        for canvas in canvases.values():
            canvas.draw()
    return {name: np.asarray(c.buffer_rgba())[..., :3] for name, c in canvases.items()}


def mosaic(images: np.ndarray, columns: int, width: int = 28, height: int = 28) -> np.ndarray:
    """Returns digits, uint8 [n, 28, 28], side by side: uint8 [rows * height, columns * width].

    Each is at the top left of a cell of `height` x `width` pixels; the rest is 0.
    """
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
    notes = {
        "confusion_matrix": "At the right: how many of each were read right.",
        "history": "Of training while it goes on; of validation after each epoch.",
        "mistakes": f"All {count:,}." if count <= 20 else f"20 of {count:,}.",
        "calibration": "Confidence is off by"
        f" {100 * result.calibration_error:.1f} points on average.",
    }
    if not count:
        notes["mistakes"] = "Not one mistake in the test set."
    with matplotlib.rc_context(_STYLE):
        drawn = {
            "confusion_matrix": _confusion(
                result.confusion, width=_SIDE, cell=43, edge=60, top=_TOP - 10, complete=True
            ),
            "history": _history(history),
            "mistakes": _digits(images, result, chosen, width=_SIDE, columns=5, top=_TOP),
            "calibration": _calibration(result.reliability),
        }
        return {name: _svg(drawn[name], CAPTIONS[name], notes[name]) for name in CAPTIONS}


def _svg(figure: Figure, title: str, note: str) -> str:
    height = figure.get_figheight() * _DPI
    figure.text(6 / _SIDE, 1 - 22 / height, title, size=11, weight="bold")
    figure.text(6 / _SIDE, 1 - 42 / height, note, color=MUTED)
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
    width: int,
    columns: int,
    scale: int = 3,
    top: int = 6,
    smooth: bool = False,
) -> Figure:
    """Draws framed, captioned digits: below each heading those of the indices.

    The figure is `width` units wide, and a digit's pixel `scale`; the digits begin `top` units from
    above.
    """
    left, edge, caption = 6, 28 * scale, 39
    cell_width, cell_height = (width - left) // (columns * scale), 28 + caption // scale
    rows = sum(-(-len(chosen) // columns) for chosen in sections.values())
    height = top + 40 * sum(map(bool, sections)) + rows * cell_height * scale
    figure, axes = _canvas(width, height)
    style = {"norm": Normalize(0, 255), "interpolation": "bilinear" if smooth else "none"}
    frames, colors = [], []
    for heading, chosen in sections.items():
        axes.text(left, top + 22, heading, size=11, color=MUTED)
        top += 40 * bool(heading)
        paper = 255 - mosaic(images[chosen], columns, cell_width, cell_height)
        bottom = top + paper.shape[0] * scale
        if len(chosen):
            extent = (left, left + paper.shape[1] * scale, bottom, top)
            axes.imshow(paper, "gray", extent=extent, aspect="auto", **style)
        for place, example in enumerate(chosen):
            x = left + place % columns * cell_width * scale
            y = top + place // columns * cell_height * scale
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


def _confusion(
    confusion: np.ndarray, *, width: int, cell: int, edge: int, top: int = 0, complete: bool = False
) -> Figure:
    """Draws the matrix; `complete` with each class's accuracy and the numbers of rare mistakes.

    The figure is `width` units wide, and a class `cell`; the headings take `edge`, below `top`.
    """
    diagonal = np.eye(10, dtype=bool)
    wrong = np.where(diagonal, 0, confusion)
    recall = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    shares = np.where(diagonal, recall, np.sqrt(wrong / max(wrong.max(), 1)))
    tints = np.where(diagonal[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    figure, axes = _canvas(width, top + edge + 10 * cell + 8)
    lines = edge + np.arange(11) * cell
    colors = 1 - 0.85 * shares[..., None] * (1 - tints)
    axes.pcolormesh(lines, top + lines, colors, edgecolors="white", linewidth=2)
    columns = lines[:10] + cell / 2
    rows = top + columns
    axes.text(lines[5], top + 0.25 * edge, "read as", color=MUTED, **_CENTERED)
    axes.text(0.25 * edge, top + lines[5], "is", color=MUTED, **_CENTERED)
    for digit in range(10):
        axes.text(columns[digit], top + 0.73 * edge, digit, weight="bold", **_CENTERED)
        axes.text(0.73 * edge, rows[digit], digit, weight="bold", **_CENTERED)
        if complete:
            axes.text(lines[10] + 32, rows[digit], f"{recall[digit]:.1%}", color=MUTED, **_CENTERED)
    least = 1 if complete else max(1, wrong.max() / 3)
    for row, column in np.argwhere((confusion >= least) | diagonal & (confusion > 0)):
        color = "white" if row == column and recall[row] > 0.8 else INK
        axes.text(columns[column], rows[row], confusion[row, column], color=color, **_CENTERED)
    return figure


def _history(history: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure((_SIDE / _DPI, _SIDE / _DPI), dpi=_DPI)
    room = {"left": 0.1, "right": 0.97, "top": 0.86, "bottom": 0.08, "hspace": 0.25}
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
    figure = Figure((_SIDE / _DPI, _SIDE / _DPI), dpi=_DPI)
    axes = figure.add_axes((0.12, 0.08, 0.85, 0.79), xlim=(0, 1.04), ylim=(0, 1.04))
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
