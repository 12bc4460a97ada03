"""`predictions.png`: what a trained model reads, at a glance, drawn from arrays alone.

With Pillow, in a twentieth of a second: importing a plotting library would take the job ten times
as long. The figures of the report are in `charts.py`.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.results import charts

_COLUMNS, _ROWS = 12, 3
_SIDE, _PITCH = 84, 91  # of a digit in pixels, three for each of its own; from one to the next
_EDGE = 12
_ROW, _MISTAKES_ROW = 126, 146  # heights; below a mistake stands what it is
_COLOURS = 64  # of the file: a third of the size of one with millions, and no eye sees it


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
    cells = _COLUMNS * _ROWS
    wrong = charts.surest_mistakes(labels, probabilities)
    first = np.arange(min(cells, len(labels)))
    sections = [("As they come: the first digits of the test set", first, _ROW)]
    if len(wrong):
        shown = wrong[:cells]
        count = "all" if len(shown) == len(wrong) else f"the {len(shown)} it was surest of, of"
        sections.append((f"Mistakes: {count} {len(wrong):,}", shown, _MISTAKES_ROW))
    high = 64 + sum(42 + _rows(chosen) * row for _, chosen, row in sections)
    image = Image.new("RGB", (_COLUMNS * _PITCH + 2 * _EDGE, high), "white")
    draw = ImageDraw.Draw(image)
    _bold(draw, (_EDGE, 38), title, 23, charts.INK)
    top = 64
    for heading, chosen, row in sections:
        draw.text((_EDGE, top + 20), heading, charts.MUTED, _font(16), anchor="lm")
        top += 42
        for place, example in enumerate(chosen):
            x, y = place % _COLUMNS * _PITCH + _EDGE, top + place // _COLUMNS * row
            digit = Image.fromarray(255 - images[example])
            image.paste(digit.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (x, y))
            _caption(draw, x, y, int(labels[example]), probabilities[example])
        top += _rows(chosen) * row
    file = io.BytesIO()
    few = image.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(file, "PNG")
    return file.getvalue()


def _rows(chosen: np.ndarray) -> int:
    return -(-len(chosen) // _COLUMNS)


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, label: int, answer: np.ndarray) -> None:
    """Frames the digit at (x, y) and writes below it what was read, how surely, and what it is."""
    read = int(answer.argmax())
    right = label == read
    colour, frame, width = (charts.BLUE, "#c8c8c8", 1) if right else (charts.ORANGE,) * 2 + (3,)
    edge = width // 2
    box = (x - edge, y - edge, x + _SIDE + edge, y + _SIDE + edge)
    draw.rectangle(box, outline=frame, width=width)
    _bold(draw, (x + 1, y + 98), f"{read}", 17, colour)
    share = percent(float(answer[read]))
    draw.text((x + _SIDE, y + 98), share, charts.MUTED, _font(14), anchor="rm")
    if not right:
        draw.text((x + 1, y + 118), f"is a {label}", charts.MUTED, _font(14), anchor="lm")


def _bold(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, colour: str
) -> None:
    """Writes twice, a little apart: Pillow's own font has no bold."""
    for aside in (0, size / 32):
        draw.text((place[0] + aside, place[1]), text, colour, _font(size), anchor="lm")


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def percent(share: float) -> str:
    """Returns a share as a whole percentage, never rounded up to certainty."""
    return f"{min(int(share * 100 + 0.5), 99 if share < 1 else 100)} %"
