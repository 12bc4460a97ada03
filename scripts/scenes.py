"""Pictures of numbers as people write and photograph them, made of MNIST's digits, by kind.

A picture is a function of its kind, its index and the digits. What it shows is known, so a reader
can be measured with it. Sizes without a unit are shares of the height of a digit.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Range = tuple[float, float]
Colour = tuple[int, int, int]  # blue, green, red, as OpenCV has them

FINE = 6  # strokes are measured at so many times MNIST's size
DIGIT = 20 * FINE  # pixels: the height of a digit there
BLACK, BLUE, RED, GREEN = (38, 34, 32), (150, 62, 34), (50, 40, 190), (70, 110, 30)
RULES = ((165, 165, 165), (190, 185, 180), (205, 165, 125), (215, 190, 150), (190, 150, 120))
WHITE, PAPER, YELLOW = (255, 255, 255), (236, 242, 244), (120, 226, 244)
DESKS = ((30, 48, 72), (52, 78, 108), (28, 28, 30), (70, 66, 62), (24, 34, 50), (60, 52, 44))
BOARDS = ((48, 62, 44), (40, 40, 40), (70, 58, 42), (58, 84, 62))

# Not among single letters, because a person could read a digit: O o D Q (0), I i l J j (1), Z z
# (2), S s (5), G b (6), B (8), g q (9). Not among marks: | / \ ' ` (1). Words have any letter.
LETTERS = "ACEFHKLMNPRTUVWXYacdefhkmnprtuvwxy"
MARKS = ("?", "!", "&", "@", "#", "%", "*", "+", "=", ":", ";", "...", "?!", "~", '"', "(?)", "$")
WORDS = """apple bread Monday garden milk window Zoo silver Otto letter yellow hello bottle Berlin
    Sunday please thanks school music little house Gig big Isis boil loss tables Bob quiz""".split()
FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono")
FONTS += ("STIXGeneral", "STIXGeneralItalic")


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and what it shows."""

    content: bytes  # of the image file
    suffix: str  # of its name: `.jpg` or `.png`
    numbers: list[str]  # in reading order
    boxes: list[Box]  # of the numbers' ink


@dataclasses.dataclass(frozen=True)
class Kind:
    """How the pictures of a kind are made; the defaults are a number on a plain sheet."""

    lines: int = 1
    words: tuple[int, int] = (1, 1)  # numbers in a line, both ends included
    digits: tuple[int, int] = (1, 8)  # in a number
    gap: Range = (0.15, 0.5)  # between the digits of a number
    touching: bool = False  # at least one pair of digits does
    height: Range = (36, 130)  # pixels: of the digits
    pen: Range | None = None  # width of strokes; without it half of the writers have MNIST's
    inks: Sequence[Colour] = (BLACK, BLACK, BLUE, BLUE, (90, 30, 30), RED)
    papers: Sequence[Colour] = (PAPER, (248, 248, 248), (222, 236, 242), (214, 218, 220))
    opacity: Range = (0.85, 1)
    grain: float = 0.1  # how much of the ink the roughness of the ground takes away
    smudges: float = 1.5  # grey levels: how uneven the ground is
    broken: bool = False
    rulings: Sequence[str] = ("",)  # `lined`, `squared` or `dotted`, one of these
    frame: str = ""  # `underline`, `circle` or `box`, by hand
    margin: Range = (0.4, 2.2)
    size: tuple[int, int] | None = None  # pixels: width and height of the picture
    neighbour: bool = False  # another digit, cut by the picture's edge
    desk: bool = False  # around the sheet, dark
    turn: float = 3  # degrees at most
    perspective: float = 0  # how much more distant one side is than the other, at most
    light: float = 0.12  # how much of it is missing at the darkest place, at most
    shadow: str = ""  # `soft` or `hard`
    blur: Range = (0, 0.008)
    noise: Range = (0.5, 2.5)  # grey levels
    quality: tuple[int, int] = (82, 95)  # of JPEG
    transparent: bool = False  # a PNG of the ink alone
    marks: Callable[[np.random.Generator, float, float], np.ndarray] | None = None  # no number


def draw(
    kind: str, index: int, images: np.ndarray, labels: np.ndarray, *, length: int | None = None
) -> Scene:
    """Returns picture `index` of a kind, of `KINDS` or `EMPTY_KINDS`.

    Args:
      images: uint8 [n, 28, 28], the digits that numbers are made of.
      labels: uint8 [n].
      length: digits of each number; without it 1 to 8, or what the kind says.
    """
    rng = np.random.default_rng([zlib.crc32(kind.encode()), index])
    style = KINDS[kind] if kind in KINDS else EMPTY_KINDS[kind]
    height = float(np.exp(rng.uniform(*np.log(style.height))))
    pen = rng.uniform(*style.pen) if style.pen else rng.choice([0, rng.uniform(0.06, 0.13)])
    if style.marks:
        ink, numbers, hulls = style.marks(rng, height, pen), [], []
    else:
        if style.size:  # all of it has to fit
            length = length or int(rng.integers(style.digits[0], style.digits[1] + 1))
            height = min(height, style.size[0] / (1.1 * length + 0.5))
        digits = _Digits(rng, images, labels, height, pen, rng.uniform(-0.15, 0.15), style.broken)
        ink, numbers, hulls = _lines(rng, style, digits, length)
    ink, *offset = _framed(rng, ink, style.frame, height, pen or 0.1)
    view, size = _view(rng, style, ink.shape, height)
    strips = (0, 0, 0, 0)
    if style.desk:
        strips, size = _strips(rng, size)
        view = _moved(*strips[:2]) @ view
    sheet = _Sheet(view, size)
    sheet.put(ink, 0, 0)
    if style.neighbour:
        sheet.put_across_edge(digits.next()[1], rng)
    printed = sheet.rules(rng, str(rng.choice(style.rulings)), ink.shape[0], height)
    picture = _photograph(rng, style, sheet, printed, strips, height)
    hulls = [cv2.perspectiveTransform(hull + np.float32(offset), view) for hull in hulls]
    boxes = [tuple(map(float, (*hull.min((0, 1)), *hull.max((0, 1))))) for hull in hulls]
    suffix = ".png" if style.transparent else ".jpg"
    quality = int(rng.integers(style.quality[0], style.quality[1] + 1))
    options = [] if style.transparent else [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, content = cv2.imencode(suffix, picture, options)
    return Scene(content.tobytes(), suffix, numbers, boxes)


# Strokes


def _strokes(solid: np.ndarray, height: float, pen: float, slant: float) -> np.ndarray:
    """Returns how much of each pixel ink covers, float32 [h, w], cropped to it.

    `solid` is uint8, 0 or 1, `DIGIT` pixels for `height`. Edges are sharp at any size. With a `pen`
    its width is that of all strokes, else they are as thick as they are.
    """
    solid = np.pad(solid, 2 * FINE)
    if pen:
        pen = max(pen, 1.6 / height)  # thinner, it would vanish
        inside = pen / 2 * DIGIT - _distance(1 - _skeleton(solid))
    else:
        inside = _distance(solid) - _distance(1 - solid) + 0.5 - solid
    inside = cv2.GaussianBlur(inside, (0, 0), 0.2 * FINE)
    scale, lean = height / DIGIT, abs(slant) * len(solid)
    matrix = scale * np.array([[1, -slant, lean if slant > 0 else 0], [0, 1, 0]])
    size = (int(scale * (solid.shape[1] + lean)) + 1, int(scale * len(solid)) + 1)
    ink = np.clip(0.5 + scale * cv2.warpAffine(inside, matrix, size, borderValue=-99.0), 0, 1)
    x, y, width, high = cv2.boundingRect((ink > 0.2).astype(np.uint8))
    return ink[y : y + high, x : x + width]


def _distance(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _skeleton(solid: np.ndarray) -> np.ndarray:
    """Thins strokes to lines (Zhang and Suen, "A fast parallel algorithm for thinning digital
    patterns", 1984); uint8, 0 or 1.
    """
    solid, count = solid.copy(), -1
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    while count != (count := int(solid.sum())):
        for turned in (0, 4):
            near = [np.roll(solid, by, (0, 1)) for by in around]
            begins = sum((1 - a) * b for a, b in zip(near, near[1:] + near[:1], strict=True))
            north, east, south, west = (near[(turned + n) % 8] for n in (0, 2, 4, 6))
            corner = (east * south * (north | west)) == 0
            total = sum(near)
            solid[(total >= 2) & (total <= 6) & (begins == 1) & corner] = 0
    return solid


def _line(shape: Sequence[int], points: np.ndarray, width: float) -> np.ndarray:
    """Returns a stroke through points [n, 2] (x, y) in pixels, float32 of that shape."""
    ink = np.zeros(shape, np.uint8)
    path = [np.rint(np.asarray(points) * 16).astype(np.int32)]
    cv2.polylines(ink, path, False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return ink.astype(np.float32) / 255


class _Digits:
    """Digits of one writer, one after the other."""

    def __init__(self, rng, images, labels, height, pen, slant, broken):
        self.rng, self.images, self.labels, self.broken = rng, images, labels, broken
        self.height, self.pen, self.slant = height, pen, slant

    def next(self) -> tuple[str, np.ndarray]:
        """Returns a digit and its ink."""
        rng, number = self.rng, int(self.rng.integers(len(self.images)))
        fine = cv2.resize(
            self.images[number], None, fx=FINE, fy=FINE, interpolation=cv2.INTER_CUBIC
        )
        fine = cv2.GaussianBlur(fine, (0, 0), 0.4 * FINE)
        solid = (fine > 0.42 * fine.max()).astype(np.uint8)
        if self.broken and rng.random() < 0.75:
            solid = self._cut(solid)
        size, slant = self.height * rng.uniform(0.9, 1.1), self.slant + rng.normal(0, 0.04)
        return str(self.labels[number]), _strokes(solid, size, self.pen, slant)

    def _cut(self, solid: np.ndarray) -> np.ndarray:
        """Takes a gap out of a stroke, straight across: where that takes least."""
        ink = np.argwhere(solid)
        centre = ink[self.rng.integers(len(ink))][::-1]
        gap = self.rng.uniform(0.05, 0.1)
        angles = np.arange(12) * np.pi / 12
        steps = 0.17 * DIGIT * np.stack([np.cos(angles), np.sin(angles)], 1)
        lines = [_line(solid.shape, [centre - s, centre + s], gap * DIGIT) > 0.5 for s in steps]
        return min((solid * line for line in lines), key=np.sum) ^ solid


# What is written


class _Row:
    """Strokes side by side on a line."""

    def __init__(self, rng: np.random.Generator, height: float):
        self.rng, self.height = rng, height
        self.ink = np.zeros((int(2.4 * height), 0), np.float32)

    def upright(self, tile: np.ndarray) -> np.ndarray:
        """Returns a tile with room above and below, so that it stands on the line."""
        room = len(self.ink) - len(tile)
        below = int(np.clip(self.rng.normal(0.7, 0.03) * self.height, 0, room))
        return np.pad(tile, ((room - below, below), (0, 0)))

    def room(self, tile: np.ndarray) -> float:
        """Returns how much nearer than its box an upright tile can come until strokes touch."""
        both = (self.ink > 0.5).any(1) & (tile > 0.5).any(1)
        rooms = np.argmax(self.ink[:, ::-1] > 0.5, 1) + np.argmax(tile > 0.5, 1)
        return float(rooms[both].min()) if both.any() else np.inf

    def add(self, tile: np.ndarray, gap: float) -> None:
        """Adds an upright tile; `gap` is in pixels, below 0 for overlapping boxes."""
        left = max(self.ink.shape[1] + round(gap), 0)
        self.ink = np.pad(self.ink, ((0, 0), (0, max(left + tile.shape[1] - self.ink.shape[1], 0))))
        part = self.ink[:, left : left + tile.shape[1]]
        np.maximum(part, tile, out=part)


def _number(
    rng: np.random.Generator, style: Kind, digits: _Digits, length: int
) -> tuple[str, np.ndarray]:
    height, usual, text = digits.height, rng.uniform(*style.gap), ""
    touching = rng.random(length) < (0.3 if style.touching else 0)
    touching[rng.integers(1, max(length, 2)) % length] |= style.touching
    row = _Row(rng, height)
    for place in range(length):
        digit, tile = digits.next()
        tile = row.upright(tile)
        gap = max(3, height * float(np.clip(usual * rng.uniform(0.75, 1.25), *style.gap)))
        if place and touching[place]:
            for _ in range(50):
                if row.room(tile) <= 0.15 * height:  # else one would be written into the other
                    break
                digit, tile = digits.next()
                tile = row.upright(tile)
            gap = -row.room(tile) - max(2, rng.uniform(0.01, 0.05) * height)
        text += digit
        row.add(tile, gap if place else 0)
    used = np.flatnonzero((row.ink > 0.2).any(1))
    return text, row.ink[used[0] : used[-1] + 1]


def _lines(
    rng: np.random.Generator, style: Kind, digits: _Digits, length: int | None
) -> tuple[np.ndarray, list[str], list[np.ndarray]]:
    """Returns the ink of all numbers, the numbers, and the hulls of their ink [n, 1, 2]."""
    placed, y, height = [], 0.0, digits.height
    for _ in range(style.lines):
        x, count = 0.0, int(rng.integers(style.words[0], style.words[1] + 1))
        if length and style.digits[0] == style.digits[1]:  # as many digits in a line
            count = max(1, style.digits[0] // length)
        for _ in range(count):
            shortest = max(style.digits[0], 2 if style.touching else 1)
            size = length or int(rng.integers(shortest, style.digits[1] + 1))
            number, ink = _number(rng, style, digits, size)
            top = y + 1.2 * height - len(ink) + rng.normal(0, 0.04) * height
            placed.append((number, ink, int(x), max(0, int(top))))
            x += ink.shape[1] + rng.uniform(1, 1.8) * height
        y += rng.uniform(1.6, 2.1) * height
    bottom = max(top + len(ink) for _, ink, _, top in placed)
    right = max(left + ink.shape[1] for _, ink, left, _ in placed)
    block, hulls = np.zeros((bottom, right), np.float32), []
    for _, ink, left, top in placed:
        part = block[top : top + len(ink), left : left + ink.shape[1]]
        np.maximum(part, ink, out=part)
        points = cv2.findNonZero((ink > 0.5).astype(np.uint8))
        hulls.append(cv2.convexHull(points).astype(np.float32) + np.float32([left, top]))
    first = min(top for *_, top in placed)
    return block[first:], [number for number, *_ in placed], [h - (0, first) for h in hulls]


def _framed(
    rng: np.random.Generator, ink: np.ndarray, frame: str, height: float, pen: float
) -> tuple[np.ndarray, int, int]:
    """Returns the ink with a frame by hand around it, and how far to the right and down it is."""
    if not frame:
        return ink, 0, 0
    around = int(0.8 * height + 0.25 * ink.shape[1])
    half = np.array(ink.shape[::-1]) / 2
    ink = np.pad(ink, around)
    centre, width = half + around, pen * height
    near = rng.uniform(0.18, 0.4) * height
    shake = lambda shape: rng.normal(0, 0.025, shape) * height  # noqa: E731
    if frame == "circle":
        power = rng.uniform(2, 2.5) if half[0] < 2 * half[1] else rng.uniform(2.5, 4)
        angles = rng.uniform(0, 6) + np.linspace(0, 2 * np.pi * rng.uniform(0.97, 1.06), 200)
        ways = np.stack([np.cos(angles), np.sin(angles)], 1)
        axes = half + near
        axes = axes * np.sum((half / axes) ** power) ** (1 / power) + 0.6 * near
        wave = 0.05 * np.sin(2 * angles + 1) + np.linspace(-0.06, 0.06, 200)
        path = np.sign(ways) * np.abs(ways) ** (2 / power) * axes + ways * wave[:, None] * height
        lines = [centre + path]
    elif frame == "box":
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (half + near)
        width = rng.choice([width, 0.03 * height])
        sides = [corners[[n, (n + 1) % 4]] + shake((2, 2)) for n in range(4)]
        lines = [centre + side + 0.03 * (side - side[::-1]).clip(-height, height) for side in sides]
    else:
        ends = np.array([(-1, 1), (0, 1), (1, 1)]) * [
            half[0] + rng.uniform(-0.05, 0.3) * height,
            half[1],
        ]
        steps = rng.uniform(0.1, 0.28) * height * np.arange(1, rng.integers(2, 4))
        lines = [centre + ends + shake((3, 2)) + (0, width / 2 + step) for step in steps]
    for line in lines:
        ink = np.maximum(ink, _line(ink.shape, line, width))
    x, y, right, down = cv2.boundingRect((ink > 0.1).astype(np.uint8))
    return ink[y : y + down, x : x + right], around - x, around - y


# How it is seen


def _view(
    rng: np.random.Generator, style: Kind, shape: Sequence[int], height: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the homography from the ink's pixels to the picture's, and the picture's size."""
    high, wide = shape
    angle = np.radians(rng.uniform(-style.turn, style.turn))
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    far = max(style.size or (high + 4 * height, wide + 4 * height))
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-1, 1, 2) * style.perspective / far
    view = tilt @ turn @ _moved(-wide / 2, -high / 2)
    corners = np.float32([[[0, 0], [wide, 0], [0, high], [wide, high]]])
    seen = cv2.perspectiveTransform(corners, view)[0]
    start, room = seen.min(0), seen.max(0) - seen.min(0)
    before, after = rng.uniform(*style.margin, (2, 2)) * height
    if style.size:
        spare = np.maximum(style.size - room, 0)
        before = spare * rng.uniform(0.06, 0.94, 2)
        after = style.size - room - before
    size = np.ceil(before + room + after).astype(int)
    return _moved(*(before - start)) @ view, (int(size[0]), int(size[1]))


def _moved(right: float, down: float) -> np.ndarray:
    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]], float)


class _Sheet:
    """Ink on the part of the sheet that the picture shows, uint8."""

    def __init__(self, view: np.ndarray, size: tuple[int, int]):
        self.view, self.size = view, size
        corners = np.float32([[[0, 0], [size[0], 0], [0, size[1]], size]])
        corners = cv2.perspectiveTransform(corners, np.linalg.inv(view))[0]
        self.left, self.top = np.floor(corners.min(0)).astype(int) - 1
        right, bottom = np.ceil(corners.max(0)).astype(int) + 1
        self.ink = np.zeros((bottom - self.top, right - self.left), np.uint8)

    def put(self, ink: np.ndarray, x: int, y: int) -> None:
        """Writes ink, float32 [h, w]; what lies outside of the sheet is cut off."""
        x, y = x - self.left, y - self.top
        ink = ink[max(0, -y) :, max(0, -x) :]
        part = self.ink[max(0, y) :, max(0, x) :][: ink.shape[0], : ink.shape[1]]
        np.maximum(
            part, np.rint(255 * ink[: part.shape[0], : part.shape[1]]), out=part, casting="unsafe"
        )

    def put_across_edge(self, ink: np.ndarray, rng: np.random.Generator) -> None:
        """Writes ink so that an edge of the picture cuts it."""
        (high, wide), (sheet_high, sheet_wide) = ink.shape, self.ink.shape
        shown = rng.uniform(0.25, 0.6)
        x, y = rng.uniform(0.1, 0.9, 2) * (sheet_wide - wide, sheet_high - high)
        side = rng.integers(4)
        if side < 2:
            x = (shown - 1) * wide if side else sheet_wide - shown * wide
        else:
            y = (shown - 1) * high if side == 2 else sheet_high - shown * high
        self.put(ink, int(x) + self.left, int(y) + self.top)

    def rules(
        self, rng: np.random.Generator, ruling: str, base: float, height: float
    ) -> list[tuple[np.ndarray, Colour]]:
        """Returns printed lines or dots, uint8, for writing on the line `base`, and colours."""
        if not ruling:
            return []
        step = height * (rng.uniform(1.1, 1.8) if ruling == "lined" else rng.uniform(0.45, 1.3))
        width = max(1, round(step * rng.uniform(0.015, 0.035)))
        rules = np.zeros_like(self.ink)
        rows = np.arange((base - self.top + rng.normal(0, 0.08) * step) % step, len(rules), step)
        columns = np.arange(rng.uniform(0, step), rules.shape[1], step)
        layers = [(rules, RULES[rng.integers(len(RULES))])]
        if ruling == "dotted":
            for x, y in itertools.product((16 * columns).astype(int), (16 * rows).astype(int)):
                cv2.circle(rules, (x, y), int(16 * (width + 0.3)), 255, -1, cv2.LINE_AA, 4)
            return layers
        for y in rows.astype(int):
            cv2.line(rules, (0, y), (rules.shape[1], y), 255, width)
        for x in columns.astype(int) if ruling == "squared" else []:
            cv2.line(rules, (x, 0), (x, len(rules)), 255, width)
        if ruling == "lined" and rng.random() < 0.5:  # the margin
            x = int(-rng.uniform(0.25, 1.2) * height) - self.left
            margin = cv2.line(np.zeros_like(rules), (x, 0), (x, len(rules)), 255, width)
            layers.append((margin, (150, 140, 225)))
        return layers

    def seen(self, layer: np.ndarray) -> np.ndarray:
        """Returns a layer of the sheet as the picture has it, float32, 0 to 1."""
        view = self.view @ _moved(self.left, self.top)
        return cv2.warpPerspective(layer, view, self.size, flags=cv2.INTER_LINEAR) / np.float32(255)


def _photograph(
    rng: np.random.Generator,
    style: Kind,
    sheet: _Sheet,
    printed: Sequence[tuple[np.ndarray, Colour]],
    strips: Sequence[int],
    height: float,
) -> np.ndarray:
    """Returns the picture of a sheet, uint8 [h, w, 3], or 4 if it is transparent."""
    ink, (wide, high) = sheet.seen(sheet.ink), sheet.size
    colour = np.float32(style.inks[rng.integers(len(style.inks))])
    rough = _cloud(rng, (high, wide), max(1.5, 0.03 * height))
    ink *= rng.uniform(*style.opacity) * (1 - style.grain * (0.5 + rough).clip(0, 1))
    if style.transparent:
        return np.dstack([np.full((high, wide, 3), colour, np.uint8), np.rint(255 * ink)]).astype(
            "B"
        )
    ground = np.float32(style.papers[rng.integers(len(style.papers))]) + rng.normal(0, 3)
    picture = ground + (style.smudges * _cloud(rng, (high, wide), height))[..., None]
    for layer, its in printed:
        picture += rng.uniform(0.6, 1) * sheet.seen(layer)[..., None] * (np.float32(its) - picture)
    picture += ink[..., None] * (colour - picture)
    if style.desk:
        picture = _on_desk(rng, picture, strips, height)
    picture *= _light(rng, style, (high, wide), height)[..., None]
    blur = rng.uniform(*style.blur) * height
    if blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture += rng.uniform(*style.noise) * rng.standard_normal((high, wide, 1), np.float32)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _cloud(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> np.ndarray:
    """Returns smooth noise of standard deviation about 1; structures are `grain` pixels large."""
    coarse = [max(2, int(side / grain)) for side in shape]
    noise = rng.standard_normal(coarse, np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _light(
    rng: np.random.Generator, style: Kind, shape: tuple[int, int], height: float
) -> np.ndarray:
    """Returns the share of the light that each pixel gets, float32."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)

    def side(way: float, offset: float) -> np.ndarray:
        return (np.float32(np.cos(way)) * x + np.float32(np.sin(way)) * y[:, None] - offset) / 1.42

    way, missing = rng.uniform(0, 7), rng.uniform(0, style.light)
    light = 1 - missing * (0.5 + side(way, 0) / 2)
    light -= rng.uniform(0, style.light) / 4 * (x**2 + y[:, None] ** 2)  # the lens
    if style.shadow and (style.shadow == "hard" or rng.random() < 0.7):
        penumbra = (
            rng.uniform(1, 6) if style.shadow == "hard" else rng.uniform(0.2, 0.8) * max(shape)
        )
        steep = max(shape) / penumbra
        dark = side(rng.uniform(0, 7), rng.uniform(-0.4, 0.4))
        if rng.random() < 0.4:  # the corner of what throws it
            dark = np.minimum(dark, side(rng.uniform(0, 7), rng.uniform(-0.6, 0.2)))
        deep = rng.uniform(0.25, 0.6) if style.shadow == "hard" else rng.uniform(0.15, 0.45)
        light *= 1 - deep * np.clip(0.5 + dark * steep, 0, 1)
    return light


def _strips(
    rng: np.random.Generator, size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Returns strips of desk left, above, right and below, in pixels, and the size with them.

    They are 3 to 40 % of the picture, on one to four sides.
    """
    sides = rng.permutation(4)[: rng.choice([1, 1, 2, 2, 3, 4])]
    share = 1 - (1 - rng.uniform(0.03, 0.4)) ** (1 / len(sides))
    strips, size = [0, 0, 0, 0], list(size)
    for side in sides:
        strips[side] = max(3, int(size[side % 2] * share / (1 - share)))
        size[side % 2] += strips[side]
    return tuple(strips), tuple(size)


def _on_desk(
    rng: np.random.Generator, picture: np.ndarray, strips: Sequence[int], height: float
) -> np.ndarray:
    """Covers strips of the picture with a dark desk, along a sheet that lies a little askew."""
    high, wide = picture.shape[:2]
    left, top, right, bottom = np.where(strips, strips, -2 * max(high, wide))
    right, bottom = wide - right, high - bottom
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    corners = corners + rng.uniform(-0.12, 0.12, (4, 2)) * height
    sheet = np.zeros((high, wide), np.uint8)
    cv2.fillPoly(sheet, [np.rint(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    sheet = (sheet / np.float32(255))[..., None]
    colour = np.float32(DESKS[rng.integers(len(DESKS))])
    streaks = _cloud(rng, (high, wide), max(2, 0.03 * height))
    long = cv2.blur(streaks, (max(1, int(height)), 1)) if rng.random() < 0.6 else streaks / 4
    desk = colour * (1 + 0.5 * long[..., None])
    return desk + sheet * (picture - desk)


# What is no number


def _blank(rng: np.random.Generator, height: float, pen: float) -> np.ndarray:
    return np.zeros((int(rng.uniform(1, 4) * height), int(rng.uniform(1, 5) * height)), np.float32)


def _text(
    choices: Sequence[str], most: int, rng: np.random.Generator, height: float, pen: float
) -> np.ndarray:
    """Writes some of `choices` in a line, in one font, a little bent, with a pen or as printed."""
    path = pathlib.Path(matplotlib.get_data_path(), "fonts/ttf", f"{rng.choice(FONTS)}.ttf")
    font = ImageFont.truetype(str(path), round(DIGIT / 0.72))
    text = " ".join(rng.choice(choices, rng.integers(1, most + 1)))
    box = font.getbbox(text)
    page = Image.new("L", (int(box[2]) + 40, int(box[3]) + 40))
    ImageDraw.Draw(page).text((20, 20), text, 255, font)
    grid = np.indices((page.height, page.width)).astype(np.float32)
    bent = [axis + 4 * _cloud(rng, grid[0].shape, 90) for axis in grid]
    solid = cv2.remap(np.asarray(page), bent[1], bent[0], cv2.INTER_LINEAR) > 128
    return _strokes(solid.astype(np.uint8), height, pen, rng.uniform(-0.05, 0.15))


def _scribble(rng: np.random.Generator, height: float, pen: float) -> np.ndarray:
    high, wide = rng.uniform(0.6, 2) * height, rng.uniform(1, 4) * height
    count, form = int(rng.integers(9, 30)), rng.integers(4)
    along = np.linspace(0, 1, count)
    jitter = rng.normal(0, 0.04, (count, 2))
    if form == 0:  # to and fro
        points = np.stack([along, np.arange(count) % 2], 1) + jitter
    elif form == 1:  # tangled
        points = rng.random((count, 2))
    elif form == 2:  # a coil
        turns = 2 * np.pi * along * count / 2
        along, count = np.repeat(along, 1), count
        points = np.stack([along * 0.8 + 0.1 * np.cos(turns), 0.5 + 0.5 * np.sin(turns)], 1)
    else:  # a wave that runs back over itself
        points = (
            np.stack([0.5 - 0.5 * np.cos(7 * along), 0.5 + 0.4 * np.sin(40 * along)], 1) + jitter
        )
    return _path([points * (wide, high)], rng, height, pen)


def _drawing(rng: np.random.Generator, height: float, pen: float) -> np.ndarray:
    name = rng.choice(list(DRAWINGS))
    size = rng.uniform(1, 3) * height
    return _path([size * np.array(line, float) for line in DRAWINGS[name]], rng, height, pen)


def _path(
    lines: Iterable[np.ndarray], rng: np.random.Generator, height: float, pen: float
) -> np.ndarray:
    """Returns lines through points [n, 2] by a hand that shakes a little, cropped."""
    lines = [line + rng.normal(0, 0.03, line.shape) * height for line in lines]
    lines = [
        cv2.resize(line[:, None], (1, 12 * len(line)), interpolation=cv2.INTER_LINEAR)[:, 0]
        for line in lines
    ]
    every = np.concatenate(lines)
    start = every.min(0) - height / 4
    wide, high = (every.max(0) - start + height / 4).astype(int)
    strokes = [_line((high, wide), line - start, max(1, (pen or 0.1) * height)) for line in lines]
    ink = np.max(strokes, 0)
    x, y, wide, high = cv2.boundingRect((ink > 0.1).astype(np.uint8))
    return ink[y : y + high, x : x + wide]


def _noise(rng: np.random.Generator, height: float, pen: float) -> np.ndarray:
    shape = (int(rng.uniform(2, 6) * height), int(rng.uniform(2, 6) * height))
    form = rng.integers(3)
    if form == 0:
        return np.zeros(shape, np.float32)
    if form == 1:  # speckles
        return (rng.random(shape) < rng.uniform(0.005, 0.1)).astype(np.float32)
    return (0.3 * _cloud(rng, shape, rng.uniform(2, height / 2)) + 0.4).clip(0, 1)


def _arc(x: float, y: float, radius: float, start: float = 0, end: float = 360) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, 24))
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)


DRAWINGS = {
    "house": [
        [(0, 1), (0, 0.4), (0.5, 0), (1, 0.4), (1, 1), (0, 1)],
        [(0.4, 1), (0.4, 0.6), (0.6, 0.6), (0.6, 1)],
    ],
    "face": [
        _arc(0.5, 0.5, 0.5),
        _arc(0.3, 0.35, 0.05),
        _arc(0.7, 0.35, 0.05),
        _arc(0.5, 0.5, 0.3, 20, 160),
    ],
    "star": [[(0.2, 1), (0.5, 0), (0.8, 1), (0, 0.38), (1, 0.38), (0.2, 1)]],
    "arrow": [[(0, 0.5), (1, 0.5)], [(0.7, 0.2), (1, 0.5), (0.7, 0.8)]],
    "sun": [
        _arc(0.5, 0.5, 0.22),
        *(
            [
                (0.5 + 0.3 * np.cos(a), 0.5 + 0.3 * np.sin(a)),
                (0.5 + 0.5 * np.cos(a), 0.5 + 0.5 * np.sin(a)),
            ]
            for a in np.arange(8) * np.pi / 4
        ),
    ],
    "heart": [
        np.concatenate(
            [
                _arc(0.25, 0.28, 0.25, 160, 350),
                _arc(0.75, 0.28, 0.25, 190, 380),
                [(0.5, 1), (0.02, 0.37)],
            ]
        )
    ],
    "tree": [[(0.4, 1), (0.4, 0.6)], [(0.6, 1), (0.6, 0.6)], _arc(0.5, 0.32, 0.32)],
    "fish": [
        _arc(0.4, 0.7, 0.5, 220, 320),
        _arc(0.4, 0.06, 0.5, 40, 140),
        [(0.78, 0.38), (1, 0.2), (1, 0.56), (0.78, 0.38)],
        _arc(0.15, 0.34, 0.03),
    ],
    "cube": [
        [(0, 0.3), (0.7, 0.3), (0.7, 1), (0, 1), (0, 0.3)],
        [(0, 0.3), (0.3, 0), (1, 0), (0.7, 0.3)],
        [(1, 0), (1, 0.7), (0.7, 1)],
    ],
    "flower": [
        *(_arc(0.5 + 0.2 * np.cos(a), 0.3 + 0.2 * np.sin(a), 0.13) for a in np.arange(5) * 1.2566),
        [(0.5, 0.5), (0.5, 1.1)],
        [(0.5, 0.8), (0.75, 0.65)],
    ],
    "grid": [
        [(0.33, 0), (0.33, 1)],
        [(0.66, 0), (0.66, 1)],
        [(0, 0.33), (1, 0.33)],
        [(0, 0.66), (1, 0.66)],
    ],
}

_PHOTO = Kind(
    turn=15,
    perspective=0.3,
    light=0.45,
    shadow="soft",
    blur=(0.004, 0.018),
    noise=(2, 6),
    quality=(70, 92),
)

KINDS = {
    "plain": Kind(),
    "close": Kind(gap=(0.02, 0.12)),
    "touching": Kind(gap=(0.02, 0.12), touching=True),
    "lined": Kind(rulings=("lined",)),
    "squared": Kind(rulings=("squared",)),
    "dotted": Kind(rulings=("dotted",)),
    "photographed": _PHOTO,
    "hard shadow": Kind(shadow="hard", light=0.25, turn=6),
    "dark desk": Kind(desk=True, light=0.25, turn=6),
    "chalk": Kind(
        papers=BOARDS,
        inks=((235, 240, 240), (235, 240, 240), (150, 225, 240)),
        pen=(0.08, 0.15),
        opacity=(0.6, 0.95),
        grain=0.5,
        smudges=6,
        light=0.3,
        turn=8,
    ),
    "whiteboard": Kind(
        papers=((238, 236, 232), (225, 226, 224)),
        inks=(BLACK, BLUE, RED, GREEN),
        pen=(0.06, 0.12),
        opacity=(0.75, 0.95),
        smudges=4,
        light=0.2,
        turn=8,
        perspective=0.15,
    ),
    "underlined": Kind(frame="underline"),
    "circled": Kind(frame="circle"),
    "boxed": Kind(frame="box"),
    "ballpoint": Kind(pen=(0.03, 0.055), height=(50, 150), inks=(BLUE, BLACK, (120, 40, 30))),
    "marker": Kind(pen=(0.15, 0.2), gap=(0.2, 0.5)),
    "pencil": Kind(
        pen=(0.04, 0.08), inks=((95, 95, 95), (110, 108, 106)), opacity=(0.45, 0.8), grain=0.45
    ),
    "blue on yellow": Kind(papers=(YELLOW, (150, 238, 250)), inks=(BLUE, (140, 80, 50)), light=0.2),
    "broken": Kind(broken=True),
    "neighbour": Kind(neighbour=True, margin=(1.3, 2.2), turn=0),
    "small": Kind(size=(200, 200), gap=(0.15, 0.35), height=(22, 60), pen=(0.09, 0.14)),
    "small in 12 megapixels": Kind(
        size=(4000, 3000),
        height=(60, 160),
        light=0.3,
        shadow="soft",
        blur=(0.004, 0.015),
        noise=(2, 5),
        turn=6,
    ),
    "JPEG 30": Kind(quality=(30, 30)),
    "transparent": Kind(transparent=True, inks=(WHITE, WHITE, BLACK, BLUE, RED), opacity=(0.9, 1)),
    "page": Kind(lines=6, digits=(8, 8), gap=(0.15, 0.45), height=(36, 70)),
    "several": Kind(lines=2, words=(2, 4), digits=(1, 4), gap=(0.1, 0.4), height=(36, 90)),
}

_UNREAD = dataclasses.replace(_PHOTO, rulings=("", "", "lined", "squared"), turn=8, margin=(0.4, 3))
EMPTY_KINDS = {
    "blank": dataclasses.replace(_UNREAD, marks=_blank, rulings=("",)),
    "blank ruled": dataclasses.replace(
        _UNREAD, marks=_blank, rulings=("lined", "squared", "dotted")
    ),
    "letters": dataclasses.replace(_UNREAD, marks=functools.partial(_text, list(LETTERS), 4)),
    "words": dataclasses.replace(_UNREAD, marks=functools.partial(_text, WORDS, 3)),
    "scribbles": dataclasses.replace(_UNREAD, marks=_scribble),
    "noise": dataclasses.replace(
        _UNREAD, marks=_noise, rulings=("",), noise=(3, 60), margin=(0, 0), turn=0, perspective=0
    ),
    "punctuation": dataclasses.replace(_UNREAD, marks=functools.partial(_text, MARKS, 4)),
    "drawings": dataclasses.replace(_UNREAD, marks=_drawing),
}
