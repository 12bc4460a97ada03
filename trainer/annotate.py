"""Draws what was read into a picture, and beside it the fields that the model saw."""

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw
from PIL.ImageFont import load_default as font

from trainer.picture import Number, Picture

SURE, UNSURE = "#0072b2", "#d55e00"  # told apart by the colour-blind too (Okabe and Ito, 2008)
TEXT, MUTED, GROUND = "#1b1b1b", "#595959", "#f6f5f2"
LONGER, MAX_ZOOM = 1000, 8  # pixels of the picture's longer side; a tiny one grows so far at most
MARGIN, GAP, BLOCK = 32, 24, 156  # pixels; a block is a number's line, its fields, their captions
FIELD = 3 * 28  # pixels of a field's side


def annotate(image: Picture, numbers: Sequence[Number], problem: str = "") -> bytes:
    """Returns a PNG file: the picture, what was read in it, or the `problem` why there is none."""
    picture = Image.fromarray(image.pixels)
    zoom = min(LONGER / max(picture.size), MAX_ZOOM)
    picture = picture.resize([max(1, round(side * zoom)) for side in picture.size])
    left = picture.width + 2 * MARGIN
    fields = sum(len(number.digits) + 1 for number in numbers)
    width = max(8 * (FIELD + 6), int(110 * fields**0.5))  # many make a square, about
    places, right, bottom = _place(numbers, left, left + width)
    size = (right + MARGIN, max(picture.height + MARGIN, bottom) + MARGIN)
    sheet = Image.new("RGB", size, GROUND)
    sheet.paste(picture, (MARGIN, MARGIN))
    draw = ImageDraw.Draw(sheet)
    title = textwrap.fill(problem, 32) or "What the model saw"
    draw.text((left, MARGIN), title, UNSURE if problem else MUTED, font(20))
    for number, place in zip(numbers, places, strict=True):
        _mark(draw, number, zoom / image.scale)
        _show_fields(sheet, number, *place)
    sheet.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _place(numbers: Sequence[Number], left: int, limit: int) -> tuple[list, int, int]:
    """Sets the numbers' fields like words; returns their places, the right end and the bottom."""
    places, x, y, right = [], left, MARGIN + 44, left + 320
    for number in numbers:
        width = max(len(number.digits) * (FIELD + 6), int(font(24).getlength(_heading(number))))
        if x > left and x + width > limit:
            x, y = left, y + BLOCK
        places.append((x, y))
        right, x = max(right, x + width), x + width + GAP
    return places, right, y + BLOCK


def _heading(number: Number) -> str:
    return f"{number.number}   {min(number.confidence, 0.999):.1%}{'  unsure' * number.unsure}"


def _mark(draw: ImageDraw.ImageDraw, number: Number, scale: float) -> None:
    """Draws the box of a number, thin ones of its digits, and above it what was read."""
    colour = UNSURE if number.unsure else SURE
    for digit in number.digits if len(number.digits) > 1 else ():
        draw.rectangle([MARGIN + side * scale for side in digit.box], outline=colour)
    left, top, right, bottom = (MARGIN + side * scale for side in number.box)
    draw.rectangle((left - 5, top - 5, right + 5, bottom + 5), outline="white", width=5)
    draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), outline=colour, width=3)
    letters = font(min(max(0.4 * (bottom - top), 18), 36))
    tag = draw.textbbox((left + 2, top - 7), number.number, letters, "ls")
    draw.rectangle((left - 4, tag[1] - 5, tag[2] + 6, top - 2), colour)
    draw.text((left + 2, top - 7), number.number, "white", letters, "ls")


def _show_fields(sheet: Image.Image, number: Number, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top), _heading(number), UNSURE if number.unsure else SURE, font(24))
    for digit in number.digits:
        field = Image.fromarray(digit.field).resize((FIELD, FIELD), Image.Resampling.NEAREST)
        sheet.paste(field, (left, top + 34))
        caption = f"{digit.digit}  {int(100 * digit.confidence)}%"
        draw.text((left + FIELD / 2, top + FIELD + 38), caption, TEXT, font(16), "ma")
        left += FIELD + 6
