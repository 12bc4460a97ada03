"""The pictures of a run, drawn with matplotlib from arrays alone."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

# Okabe and Ito's palette, told apart by every kind of colour vision: https://jfly.uni-koeln.de/color/
INK, MUTED, RIGHT, WRONG = "#1b1b1b", "#6b6b6b", "#0072B2", "#D55E00"

_COLUMNS, _ROWS = 12, 3
_UNIT = 32  # pixels of MNIST from one digit to the next


def predictions(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, *, title: str
) -> bytes:
    """Returns a PNG of test digits with what was read, what they are and how sure the model was.

    Above, the first digits of the test set as they come; below, the mistakes the model was surest
    of.

    Args:
      images: uint8 [n, 28, 28].
      labels: integers [n].
      probabilities: float [n, 10].
      title: the line above everything.
    """
    classes, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(classes != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")]
    cells = _COLUMNS * _ROWS
    sections = [
        ("As they come: the first digits of the test set", np.arange(min(cells, len(labels))), 44)
    ]
    if len(wrong):
        shown = surest[:cells]
        count = "all" if len(shown) == len(wrong) else f"the {len(shown)} it was surest of, of"
        sections.append((f"Mistakes: {count} {len(wrong):,}", shown, 52))
    line = 20
    height = 24 + sum(line + _rows(chosen) * row for _, chosen, row in sections)
    figure = Figure(figsize=(_COLUMNS * 0.92, height / _UNIT * 0.92), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(2, 14, title, fontsize=15, fontweight="bold", color=INK, va="center")
    # All digits are pixels of one picture: drawn for themselves each would take as long as all.
    paper = np.zeros((height, _COLUMNS * _UNIT), np.uint8)
    top = 24
    for heading, chosen, row in sections:
        axes.text(2, top + 10, heading, fontsize=11, color=MUTED, va="center")
        top += line
        for place, example in enumerate(chosen):
            x, y = place % _COLUMNS * _UNIT + 2, top + place // _COLUMNS * row
            paper[y : y + 28, x : x + 28] = images[example]
            _caption(axes, x, y, labels[example], classes[example], confidence[example])
        top += _rows(chosen) * row
    axes.imshow(paper, cmap="gray_r", vmin=0, vmax=255, extent=(0, paper.shape[1], height, 0))
    axes.set(xlim=(-2, paper.shape[1] + 2), ylim=(height, 0), aspect="auto")
    return png(figure)


def _rows(chosen: np.ndarray) -> int:
    return -(-len(chosen) // _COLUMNS)


def _caption(axes, x: int, y: int, label: int, read: int, confidence: float) -> None:
    """Frames the digit at (x, y) and writes below it what was read, how surely, and what it is."""
    right = label == read
    frame = {"linewidth": 0.6, "edgecolor": "#c8c8c8"} if right else {"linewidth": 2.4}
    axes.add_patch(Rectangle((x, y), 28, 28, fill=False, **{"edgecolor": WRONG} | frame))
    bold = {"fontsize": 10.5, "fontweight": "bold", "va": "center"}
    small = {"fontsize": 8.5, "color": MUTED, "va": "center"}
    axes.text(x + 0.5, y + 33, f"{read}", color=RIGHT if right else WRONG, **bold)
    axes.text(x + 27.5, y + 33, percent(confidence), ha="right", **small)
    if not right:
        axes.text(x + 0.5, y + 40, f"is a {label}", **small)


def percent(share: float) -> str:
    """Returns a share as a whole percentage, never rounded up to certainty."""
    return f"{min(int(share * 100 + 0.5), 99 if share < 1 else 100)} %"


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file of at most 128 colours, a third of the size of millions."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    picture.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, "PNG"
    )
    return buffer.getvalue()
