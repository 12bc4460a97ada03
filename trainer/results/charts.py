"""The figures of a run as SVG: sharp at any size and in print, a few kilobytes, drawn in no time.

Apart from `figures.py`, whose picture is pixels: these are text, so that the report can hold them
as they are. The style is one: blue is right or training, orange is wrong or validation, and no
meaning hangs on colour alone.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

# Okabe and Ito's palette, told apart by every kind of colour vision: https://jfly.uni-koeln.de/color/
INK, MUTED, LINE = "#1b1b1b", "#595959", "#d9d9d9"
BLUE, ORANGE = "#0072B2", "#D55E00"
# Without its yellow and its sky blue, which are faint as letters on white; the others as dark as
# letters have to be (4.5 : 1).
PALETTE = (BLUE, "#C24F00", "#007A57", "#A8447F", "#8A6100", INK)

_SHADES = 15  # of a colour, in pictures of weights: few make a small file
_WIDTH = 480  # of every figure, in CSS pixels: legible on a phone, two side by side on a screen


def all_of(
    history: Sequence[Mapping[str, Any]],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: Sequence[np.ndarray],
) -> dict[str, str]:
    """Returns every figure of a finished run as SVG, by name.

    Args:
      history: a row an epoch, as in `history.csv`.
      images: test digits, uint8 [n, 28, 28].
      labels: integers [n].
      probabilities: float [n, 10].
      weights: of the model, layer by layer; the first are those of `first_layer`.
    """
    matrix = confusion_matrix(labels, probabilities.argmax(1))
    drawn = {
        "confusion_matrix": confusion(matrix),
        "history": curves(history),
        "per_class": per_class(matrix),
        "calibration": calibration(labels, probabilities),
        "mistakes": mistakes(images, labels, probabilities),
        "first_layer": first_layer(weights[0]),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def confusion_matrix(labels: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Returns int64 [10, 10]: how many digits of the row's class were read as the column's."""
    return np.bincount(labels.astype(np.int64) * 10 + read, minlength=100).reshape(10, 10)


def confusion(matrix: np.ndarray) -> str:
    """Draws a confusion matrix, int [10, 10], with its counts."""
    cell, left, top = 40, 58, 62
    wrong = matrix - np.diag(np.diag(matrix))
    most = max(wrong.max(), 1)
    parts = [_text(left + 5 * cell, 30, "read as", anchor="middle", fill=MUTED)]
    parts.append(
        f'<g transform="rotate(-90 16 {top + 5 * cell})">'
        f"{_text(16, top + 5 * cell, 'is', anchor='middle', fill=MUTED)}</g>"
    )
    for row in range(10):
        parts.append(_text(left + row * cell + cell / 2, top - 10, row, anchor="middle", bold=True))
        parts.append(_text(left - 14, top + row * cell + 25, row, anchor="middle", bold=True))
        for column in range(10):
            count, right = int(matrix[row, column]), row == column
            share = count / max(matrix[row].sum(), 1) if right else math.sqrt(count / most)
            fill = mix(BLUE if right else ORANGE, 0.85 * share) if count else "#fafafa"
            x, y = left + column * cell, top + row * cell
            parts.append(_box(x + 1, y + 1, cell - 2, cell - 2, fill))
            if count:
                # White is legible on the dark end of either colour, ink on the rest.
                ink = "#ffffff" if right and share > 0.8 else INK
                parts.append(
                    _text(x + cell / 2, y + 25, count, anchor="middle", fill=ink, size=12.5)
                )
    total = int(matrix.sum())
    pairs = np.dstack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), (10, 10)))[0]
    confused = "; ".join(
        f"{a} read as {b} {wrong[a, b]} times" for a, b in pairs[:3] if wrong[a, b]
    )
    return _svg(
        top + 10 * cell + 10,
        "Confusion matrix",
        f"{int(np.trace(matrix)):,} of {total:,} digits are on the diagonal, read right."
        f" {f'Most often confused: {confused}.' if confused else 'There are no mistakes.'}",
        parts,
    )


def curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Draws loss, accuracy and learning rate by epoch, each in a panel of its own."""
    panels = (
        ("Loss", ("train_loss", "validation_loss"), _loss),
        ("Accuracy", ("train_accuracy", "validation_accuracy"), _accuracy),
        ("Learning rate at the end of the epoch", ("learning_rate",), _rate),
    )
    parts, top, high = [], 6, 118
    for title, keys, shown in panels:
        lines = []
        for key, name, colour in zip(
            keys, ("training", "validation"), (BLUE, ORANGE), strict=False
        ):
            points = _points(history, key)
            # One that is not there in every epoch would be drawn where it was not measured.
            if points and len(points) == len(history):
                lines.append(_Line("" if len(keys) == 1 else name, colour, points, name[0] == "v"))
        parts.append(_text(0, top + 14, title, bold=True))
        parts += _panel(lines, top + 26, high, shown)
        top += high + 62
    parts.append(_text(225, top - 4, "epoch", anchor="middle", fill=MUTED))
    last = history[-1] if history else {}
    said = ", ".join(f"{key.replace('_', ' ')} {last[key]:.4g}" for key in last if last[key])
    return _svg(
        top + 6, "Loss, accuracy and learning rate by epoch", f"The last row: {said}.", parts
    )


def compared(runs: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> str:
    """Draws loss and accuracy of several runs by epoch, each curve with the number of its run.

    Args:
      runs: for each its name and the rows of its `history.csv`.
    """
    parts, top, high = [], 6, 190
    shown_runs = list(zip(runs, itertools.cycle(PALETTE), strict=False))
    for measure, shown in (("loss", _loss), ("accuracy", _accuracy)):
        lines = []
        for number, ((_, history), colour) in enumerate(shown_runs, start=1):
            for part, label in (("train", ""), ("validation", str(number))):
                points = _points(history, f"{part}_{measure}")
                lines += [_Line(label, colour, points, part != "train")] if points else []
            if lines and not _points(history, f"validation_{measure}"):
                lines[-1] = dataclasses.replace(lines[-1], name=str(number))
        parts.append(_text(0, top + 14, measure.capitalize(), bold=True))
        parts += _panel(lines, top + 26, high, shown)
        top += high + 62
    parts.append(_text(225, top - 4, "epoch", anchor="middle", fill=MUTED))
    for number, ((name, _), colour) in enumerate(shown_runs, start=1):
        top += 22
        parts.append(_text(12, top, number, fill=colour, bold=True))
        short = name if len(name) <= 64 else f"\N{HORIZONTAL ELLIPSIS}{name[-63:]}"
        parts.append(_text(34, top, short))
    parts.append(_text(12, top + 26, "solid: training, dashed: validation", fill=MUTED))
    return _svg(top + 38, "Loss and accuracy by epoch", f"{len(runs)} runs.", parts)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A curve: its name at its end, its colour, (epoch, value) pairs, and whether it is dashed."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in history if row.get(key) is not None]


def _loss(value: float) -> str:
    return f"{value:.3g}"


def _accuracy(value: float) -> str:
    return f"{value:.2%}"


def _rate(value: float) -> str:
    return f"{value:.2g}" if value > 1e-6 else "0"


def _panel(
    lines: Sequence[_Line], top: float, high: float, shown: Callable[[float], str]
) -> list[str]:
    if not lines:
        return [_text(0, top + 14, "not measured", fill=MUTED)]
    left, right = 62, 388
    epochs = sorted({epoch for line in lines for epoch, _ in line.points})
    values = [value for line in lines for _, value in line.points]
    low, most = min(values), max(values)
    if most - low < 1e-9:
        low, most = low - 0.5 * abs(low) - 1e-9, most + 0.5 * abs(most) + 1e-9

    def at(epoch: float, value: float) -> tuple[float, float]:
        along = (epoch - epochs[0]) / max(epochs[-1] - epochs[0], 1)
        down = (high - 12) * (value - low) / (most - low)
        return left + 10 + (right - left - 20) * along, top + high - 6 - down

    parts = []
    for value in (low, (low + most) / 2, most):
        y = at(epochs[0], value)[1]
        parts.append(_rule(left, y, right, y))
        parts.append(_text(left - 8, y + 4, shown(value), anchor="end", fill=MUTED, size=12))
    for epoch in sorted({epochs[round(i)] for i in np.linspace(0, len(epochs) - 1, 6)}):
        x, _ = at(epoch, low)
        parts.append(_text(x, top + high + 17, f"{epoch:g}", anchor="middle", fill=MUTED, size=12))
    ends = []
    for line in lines:
        points = [at(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
        if len(points) <= 30:
            mark = _square if line.dashed else _dot
            parts += [mark(x, y, line.colour) for x, y in points]
        if line.name:
            ends.append((points[-1][1] + 4, points[-1][0], line))
    for x in {x for _, x, _ in ends}:
        names = sorted((end for end in ends if end[1] == x), key=lambda end: end[0])
        heights = _spread([y for y, _, _ in names], gap=14, limit=top + high + 8)
        for y, (_, _, line) in zip(heights, names, strict=True):
            parts.append(_text(x + 12, y, line.name, fill=line.colour, bold=True, size=12))
    return parts


def _spread(heights: list[float], *, gap: float, limit: float) -> list[float]:
    """Moves ascending heights apart, down and then back up to the limit: no name hides another."""
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + gap)
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], limit)
        limit = heights[place] - gap
    return heights


def per_class(matrix: np.ndarray) -> str:
    """Draws for each digit how many were found, and what it was mistaken for most."""
    rows, row = class_table(matrix), 30
    heads = ((0, "digit", "start"), (96, "tests", "end"), (160, "missed", "end"))
    parts = [_text(x, 20, head, anchor=anchor, fill=MUTED) for x, head, anchor in heads]
    parts.append(_text(180, 20, "found of it", fill=MUTED))
    parts.append(_text(_WIDTH, 20, "mistaken for", anchor="end", fill=MUTED))
    lowest = min(0.9, *(float(each["recall"]) for each in rows))
    for number, each in enumerate(rows):
        y = 40 + number * row
        parts.append(_rule(0, y - 7, _WIDTH, y - 7))
        parts.append(_text(10, y + 13, each["digit"], bold=True, size=15))
        parts.append(_text(96, y + 13, f"{each['examples']:,}", anchor="end"))
        missed = each["missed"]
        parts.append(
            _text(
                160, y + 13, missed, anchor="end", fill=ORANGE if missed else MUTED, bold=missed > 0
            )
        )
        if each["examples"]:
            long = 130 * (each["recall"] - lowest) / (1 - lowest)
            parts.append(_box(180, y + 1, 130, 15, "#f2f2f2"))
            parts.append(_box(180, y + 1, max(long, 1), 15, BLUE))
            parts.append(_text(318, y + 13, f"{each['recall']:.1%}"))
        parts.append(_text(_WIDTH, y + 13, each["mistaken_for"] or "-", anchor="end"))
    y = 40 + 10 * row + 8
    parts.append(_text(180, y, f"bars begin at {lowest:.0%}", fill=MUTED, size=12))
    worst = min(rows, key=lambda each: each["recall"])
    return _svg(
        y + 10,
        "Each digit by itself",
        f"Hardest: {worst['digit']}, found in {worst['recall']:.1%} of its tests.",
        parts,
    )


def class_table(matrix: np.ndarray) -> list[dict[str, Any]]:
    """Returns a row for each digit: examples, missed, recall, precision, what it is taken for."""
    rows = []
    for digit in range(10):
        total, right = int(matrix[digit].sum()), int(matrix[digit, digit])
        others = matrix[digit] * (np.arange(10) != digit)
        rows.append(
            {
                "digit": digit,
                "examples": total,
                "missed": total - right,
                "recall": right / total if total else 1.0,
                "precision": right / max(int(matrix[:, digit].sum()), 1),
                "mistaken_for": f"{others.argmax()} ({others.max()})" if others.max() else "",
            }
        )
    return rows


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the expected calibration error: how far confidence is from being right.

    The mean over 15 equal bins of confidence, each weighted by its examples, after Guo et al.,
    https://arxiv.org/abs/1706.04599, section 2.

    Args:
      labels: integers [n].
      probabilities: float [n, 10].
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(np.abs(np.bincount(bins, right - confidence)).sum() / len(labels))


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> str:
    """Draws how often answers of a certain confidence are right, in ten bins.

    With the error that `calibration_error` returns.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * 10).astype(int), 9)
    left, top, size = 60, 16, 280

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * size, top + (1 - y) * size

    parts = []
    for tick in np.linspace(0, 1, 6):
        (x, _), (_, y) = at(tick, 0), at(0, tick)
        parts += [_rule(left, y, left + size, y), _rule(x, top, x, top + size)]
        parts.append(_text(x, top + size + 18, f"{tick:.0%}", anchor="middle", fill=MUTED, size=12))
        parts.append(_text(left - 8, y + 4, f"{tick:.0%}", anchor="end", fill=MUTED, size=12))
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts.append(
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{MUTED}" stroke-dasharray="4 4"/>'
    )
    error, said = calibration_error(labels, probabilities), []
    for place in range(10):
        chosen = bins == place
        count = int(chosen.sum())
        if not count:
            continue
        sure, found = float(confidence[chosen].mean()), float(right[chosen].mean())
        x, y = at(sure, found)
        radius = 4 + 9 * math.sqrt(count / len(labels))
        parts.append(
            f'<line x1="{x:.1f}" y1="{at(0, sure)[1]:.1f}" x2="{x:.1f}" y2="{y:.1f}"'
            f' stroke="{ORANGE}" stroke-width="3"/>'
        )
        parts.append(_dot(x, y, BLUE, radius))
        said.append(f"{sure:.0%} sure, {found:.0%} right ({count:,})")
    parts.append(_text(left + size / 2, top + size + 40, "how sure the model was", anchor="middle"))
    parts.append(
        f'<g transform="rotate(-90 14 {top + size / 2})">'
        f"{_text(14, top + size / 2, 'how often it was right', anchor='middle')}</g>"
    )
    note = (
        ("Dots: digits in ten", 30), ("steps of confidence;", 47), ("larger, more digits.", 64),
        ("Above the diagonal", 96), ("the model is better", 113), ("than it says.", 130),
        ("Expected error", 162), (f"{error:.1%}", 184),
    )  # fmt: skip
    for text, y in note:
        parts.append(
            _text(_WIDTH, top + y, text, anchor="end", fill=MUTED, size=12)
            if "%" not in text
            else _text(_WIDTH, top + y, text, anchor="end", bold=True, size=17)
        )
    return _svg(
        top + size + 52,
        "Calibration",
        f"Expected calibration error {error:.1%}. {'; '.join(said)}.",
        parts,
    )


def mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> str:
    """Draws the 24 mistakes the model was surest of, with what each is and what was read."""
    columns, cell, row = 6, 80, 116
    shown = surest_mistakes(labels, probabilities)[:24]
    if not len(shown):
        return _svg(
            40, "Mistakes", "There are none.", [_text(0, 25, "Not one mistake in the test set.")]
        )
    # One picture for all digits: its file is smaller, and a viewer draws it once.
    rows = -(-len(shown) // columns)
    paper = np.full((rows * row // 2, columns * cell // 2), 255, np.uint8)
    parts = []
    for place, example in enumerate(shown):
        x, y = place % columns * cell, place // columns * row
        paper[y // 2 + 2 : y // 2 + 30, x // 2 + 4 : x // 2 + 32] = 255 - images[example]
        read, sure = int(probabilities[example].argmax()), float(probabilities[example].max())
        parts.append(
            f'<rect x="{x + 7}" y="{y + 3}" width="58" height="58" fill="none"'
            f' stroke="{ORANGE}" stroke-width="2"/>'
        )
        parts.append(_text(x + 7, y + 78, f"read {read}", fill=ORANGE, bold=True))
        parts.append(_text(x + 7, y + 95, f"is {labels[example]}, {sure:.0%}", size=12))
    pairs = "; ".join(
        f"{int(labels[i])} read as {int(probabilities[i].argmax())}" for i in shown[:12]
    )
    return _svg(
        rows * row,
        "The mistakes the model was surest of",
        f"{len(shown)} digits, among them {pairs}.",
        [_picture(paper, 0, 0, 2), *parts],
    )


def surest_mistakes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the places of all mistakes, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]


def first_layer(kernel: np.ndarray) -> str:
    """Draws what each unit of the first layer looks for: orange for ink it wants, blue for none.

    Args:
      kernel: float [784, units] of a dense layer, or [height, width, 1, filters] of a convolution.

    Returns:
      Nothing if it is neither.
    """
    if kernel.ndim == 2 and kernel.shape[0] == 784:
        units, columns, scale = kernel.T.reshape(-1, 28, 28)[:64], 8, 2
        what = "hidden units"
    elif kernel.ndim == 4 and kernel.shape[2] == 1:
        units, columns, scale = np.moveaxis(kernel[:, :, 0], -1, 0)[:64], 8, 9
        what = "filters"
    else:
        return ""
    size, total = units.shape[1], kernel.shape[-1]
    pitch = size + (4 if size > 10 else 2)
    rows = -(-len(units) // columns)
    paper = np.full((rows * pitch, columns * pitch), _SHADES, np.uint8)
    for place, unit in enumerate(units):
        top, left = place // columns * pitch, place % columns * pitch
        share = unit / max(float(np.abs(unit).max()), 1e-12)
        paper[top : top + size, left : left + size] = np.round((share + 1) * _SHADES)
    scale = min(scale, _WIDTH / paper.shape[1])
    which = f"all {total}" if len(units) == total else f"{len(units)} of {total}"
    return _svg(
        30 + paper.shape[0] * scale,
        "First-layer weights",
        f"The weights of {which} {what}, each scaled to its own largest weight.",
        [
            _text(0, 16, f"{which} {what}", fill=MUTED),
            _text(_WIDTH, 16, "orange: for ink, blue: against it", anchor="end", fill=MUTED),
            _picture(paper, 0, 30, scale, _diverging()),
        ],
    )


def _diverging() -> list[int]:
    """A palette from blue over white, its middle entry, to orange."""
    steps = np.arange(1, _SHADES + 1) / _SHADES
    shades = [mix(BLUE, step) for step in steps[::-1]]
    shades += ["#ffffff", *(mix(ORANGE, step) for step in steps)]
    return [value for shade in shades for value in _rgb(shade)]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def mix(colour: str, share: float) -> str:
    """Returns a colour, #rrggbb, over white: `share` of it."""
    return "#" + "".join(f"{round(255 + (each - 255) * share):02x}" for each in _rgb(colour))


def _svg(high: float, title: str, description: str, parts: Sequence[str]) -> str:
    name = escape(f"{title}. {description}", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {high:g}" width="{_WIDTH}"'
        f' height="{high:g}" role="img" aria-label="{name}"'
        ' font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13">'
        f'<rect width="{_WIDTH}" height="{high:g}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _text(
    x: float,
    y: float,
    text: Any,
    *,
    size: float = 13,
    anchor: str = "start",
    fill: str = INK,
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{fill}"'
        f"{weight}>{escape(str(text))}</text>"
    )


def _box(x: float, y: float, wide: float, high: float, fill: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" fill="{fill}"/>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{LINE}"/>'


def _dot(x: float, y: float, fill: str, radius: float = 3.5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"/>'


def _square(x: float, y: float, fill: str) -> str:
    return _box(round(x - 3, 1), round(y - 3, 1), 6, 6, fill)


def _picture(
    pixels: np.ndarray, x: float, y: float, scale: float, palette: Sequence[int] | None = None
) -> str:
    """Pixels, uint8 [height, width], grey or of a palette, `scale` times as large."""
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    high, wide = pixels.shape
    return (
        f'<image x="{x:g}" y="{y:g}" width="{wide * scale:g}" height="{high * scale:g}"'
        f' style="image-rendering: pixelated" href="data:image/png;base64,{content}"/>'
    )
