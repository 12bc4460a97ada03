"""The pictures of a run, drawn with matplotlib from arrays alone."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Okabe and Ito's palette, told apart by every kind of colour vision: https://jfly.uni-koeln.de/color/
INK, MUTED, RIGHT, WRONG = "#1b1b1b", "#6b6b6b", "#0072B2", "#D55E00"

_COLUMNS, _ROWS, _CELL = 12, 3, 1.0


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
        ("As they come: the first digits of the test set", np.arange(min(cells, len(labels))))
    ]
    if len(wrong):
        shown = surest[:cells]
        count = "all" if len(shown) == len(wrong) else f"the {len(shown)} it was surest of, of"
        sections.append((f"Mistakes: {count} {len(wrong):,}", shown))
    rows = sum(-(-len(chosen) // _COLUMNS) for _, chosen in sections)
    line, row = 0.62, 1.42
    height = 0.75 + len(sections) * line + rows * row
    figure = Figure(figsize=(_COLUMNS * 0.92, height * 0.92), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.1, _COLUMNS + 0.1), ylim=(height, 0))
    axes.axis("off")
    axes.text(0.04, 0.5, title, fontsize=15, fontweight="bold", color=INK, va="center")
    top = 0.75
    for heading, chosen in sections:
        axes.text(0.04, top + 0.36, heading, fontsize=11, color=MUTED, va="center")
        top += line
        for place, example in enumerate(chosen):
            x, y = place % _COLUMNS, top + place // _COLUMNS * row
            _cell(
                axes, x, y, images[example], labels[example], classes[example], confidence[example]
            )
        top += -(-len(chosen) // _COLUMNS) * row
    axes.set(xlim=(-0.1, _COLUMNS + 0.1), ylim=(height, 0))
    return png(figure)


def _cell(axes, x: float, y: float, image, label: int, read: int, confidence: float) -> None:
    right = label == read
    axes.imshow(
        image,
        cmap="gray_r",
        vmin=0,
        vmax=255,
        extent=(x + 0.06, x + 0.94, y + 0.88, y),
        aspect="auto",
    )
    axes.add_patch(
        Rectangle(
            (x + 0.06, y),
            0.88,
            0.88,
            fill=False,
            linewidth=0.6 if right else 2.4,
            edgecolor="#c8c8c8" if right else WRONG,
        )
    )
    text = f"{read}" if right else f"{read}, is {label}"
    axes.text(
        x + 0.07,
        y + 1.04,
        text,
        fontsize=10.5,
        fontweight="bold",
        color=RIGHT if right else WRONG,
        va="center",
    )
    axes.text(
        x + 0.93, y + 1.04, percent(confidence), fontsize=8.5, color=MUTED, va="center", ha="right"
    )


def percent(share: float) -> str:
    """Returns a share as a whole percentage, never rounded up to certainty."""
    return f"{min(int(share * 100 + 0.5), 99 if share < 1 else 100)} %"


def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
