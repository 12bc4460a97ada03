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
from collections.abc import Callable, Sequence

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Range = tuple[float, float]
Colours = Sequence[tuple[int, int, int]]  # blue, green, red, as OpenCV has them

FINE = 6  # strokes are measured at so many times MNIST's size
DIGIT = 20 * FINE  # pixels: the height of a digit there
WHITE, BLACK, BLUE, RED = (255, 255, 255), (38, 34, 32), (150, 62, 34), (50, 40, 190)
CHALK, GREEN = (235, 240, 240), (70, 110, 30)
RULES = ((165, 165, 165), (190, 185, 180), (205, 165, 125), (215, 190, 150), (190, 150, 120))
DESKS = ((30, 48, 72), (52, 78, 108), (28, 28, 30), (70, 66, 62), (24, 34, 50), (60, 52, 44))
BOARDS = ((48, 62, 44), (40, 40, 40), (70, 58, 42), (58, 84, 62))

# Not among single letters, because a person could read a digit: O o D Q (0), I i l J j (1), Z z
# (2), S s (5), G b (6), B (8), g q (9). Not among marks: | / \ ' ` (1). Words have any letter.
LETTERS = "A C E F H K L M N P R T U V W X Y a c d e f h k m n p r t u v w x y"
MARKS = '? ! & @ # % * + = : ; ... ?! ~ " (?) $'
WORDS = (
    "apple bread Monday garden milk window Zoo silver Otto letter yellow hello bottle Berlin music"
    " Sunday please thanks school little house Gig big Isis boil loss tables Bob quiz"
)
FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono")
FONTS += ("STIXGeneral", "STIXGeneralItalic")  # bundled with Matplotlib

# Lines of points (x, y), or circles (x, y, radius), 10 for the whole.
DRAWINGS = (
    "0,10 0,4 5,0 10,4 10,10 0,10 / 4,10 4,6 6,6 6,10",  # a house
    "5,5,5 / 3,3.5,.5 / 7,3.5,.5 / 2.5,6 3.5,7.5 5,8 6.5,7.5 7.5,6",  # a face
    "2,10 5,0 8,10 0,3.8 10,3.8 2,10",  # a star
    "0,5 10,5 / 7,2 10,5 7,8",  # an arrow
    "5,5,2.2 / 5,0 5,1.6 / 5,8.4 5,10 / 0,5 1.6,5 / 8.4,5 10,5 / 1.5,1.5 2.6,2.6 / 7.4,7.4 8.5,8.5"
    " / 1.5,8.5 2.6,7.4 / 7.4,2.6 8.5,1.5",  # the sun
    "5,10 0,4 0,2 1.5,.3 3.5,.3 5,2.5 6.5,.3 8.5,.3 10,2 10,4 5,10",  # a heart
    "4,10 4,6.3 / 6,10 6,6.3 / 5,3.2,3.2",  # a tree
    "0,3 0,10 7,10 7,3 0,3 / 0,3 3,0 10,0 7,3 / 10,0 10,7 7,10",  # a cube
    "3,3,1.5 / 5,1.5,1.5 / 7,3,1.5 / 4,5,1.5 / 6,5,1.5 / 5,6.5 5,11 / 5,9 7.5,7.5",  # a flower
    "3.3,0 3.3,10 / 6.6,0 6.6,10 / 0,3.3 10,3.3 / 0,6.6 10,6.6",  # a grid
    "0,5 3,2 7,3 10,1 10,7 7,6 3,8 0,5 / 1.8,4.6,.3",  # a fish
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and what it shows."""

    content: bytes  # of the image file
    suffix: str  # of its name: `.jpg` or `.png`
    numbers: list[str]  # in reading order
    boxes: list[Box]  # of the numbers' places


@dataclasses.dataclass(frozen=True)
class Kind:
    """How the pictures of a kind are made; the defaults are a number on a plain sheet."""

    lines: int = 1
    words: tuple[int, int] = (1, 1)  # numbers in a line, both ends included
    digits: tuple[int, int] = (1, 8)  # in a number
    gap: Range = (0.15, 0.5)  # between the digits of a number
    touching: bool = False  # at least one pair of digits does
    broken: bool = False  # strokes have gaps
    height: Range = (36, 130)  # pixels: of the digits
    pen: Range | None = None  # width of strokes; without it half of the writers have MNIST's
    inks: Colours = (BLACK, BLACK, BLUE, BLUE, (90, 30, 30), RED)
    papers: Colours = ((236, 242, 244), (248, 248, 248), (222, 236, 242), (214, 218, 220))
    opacity: Range = (0.85, 1)
    grain: float = 0.1  # how much of the ink the roughness of the ground takes away
    smudges: float = 1.5  # grey levels: how uneven the ground is
    rulings: Sequence[str] = ("",)  # one of these: `lined`, `squared`, `dotted`
    frame: str = ""  # by hand: `underline`, `circle` or `box`
    margin: Range = (0.4, 2.2)
    size: tuple[int, int] | None = None  # pixels: width and height of the picture
    neighbour: bool = False  # another digit, cut by the picture's edge
    desk: bool = False  # around the sheet, dark
    turn: float = 3  # degrees at most
    perspective: float = 0  # how much more distant one side is than the other, at most
    light: float = 0.12  # how much of it is missing at the darkest place, at most
    shadow: str = ""  # `soft` (7 of 10 pictures) or `hard`
    blur: Range = (0, 0.008)
    noise: Range = (0.5, 2.5)  # grey levels
    quality: tuple[int, int] = (82, 95)  # of JPEG
    transparent: bool = False  # a PNG of the ink alone
    marks: Callable[[_Writer], Array] | None = None  # instead of numbers


def draw(kind: str, index: int, images: Array, labels: Array, length: int | None = None) -> Scene:
    """Returns the picture `index` of a `kind` of `KINDS` or `EMPTY_KINDS`.

    The digits are of `images`, uint8 [n, 28, 28], and `labels`, uint8 [n]; each number has `length`
    of them, or 1 to 8, or what the kind says.
    """
    style = (KINDS | EMPTY_KINDS)[kind]
    rng = np.random.default_rng([zlib.crc32(kind.encode()), index])
    height = float(np.exp(rng.uniform(*np.log(style.height))))
    pen = rng.uniform(*style.pen) if style.pen else rng.choice([0, rng.uniform(0.06, 0.13)])
    if style.size:  # all of it has to fit
        length = length or int(rng.integers(style.digits[0], style.digits[1] + 1))
        height = min(height, style.size[0] / (1.1 * length + 0.5))
    writer = _Writer(rng, style, images, labels, height, pen, rng.uniform(-0.15, 0.15))
    written = [] if style.marks else writer.lines(length)
    ink, offset = _framed(writer, style.marks(writer) if style.marks else _sheet(written))
    view, size, strips = _view(writer, ink.shape)
    picture = _photograph(writer, cv2.warpPerspective(ink, view, size), view, len(ink), strips)
    boxes = []
    for _, its, left, top in written:
        corners = itertools.product((left, left + its.shape[1]), (top, top + len(its)))
        points = cv2.perspectiveTransform(np.float32([[*corners]]) + np.float32(offset), view)[0]
        boxes.append((*map(float, points.min(0)), *map(float, points.max(0))))
    suffix = ".png" if style.transparent else ".jpg"
    quality = int(rng.integers(*style.quality, endpoint=True))
    options = [] if style.transparent else [cv2.IMWRITE_JPEG_QUALITY, quality]
    content = cv2.imencode(suffix, picture, options)[1].tobytes()
    return Scene(content, suffix, [number for number, *_ in written], boxes)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """A hand with a pen."""

    rng: np.random.Generator
    style: Kind
    images: Array
    labels: Array
    height: float  # pixels
    pen: float  # 0: strokes are as thick as MNIST's
    slant: float

    def lines(self, length: int | None) -> list[tuple[str, Array, int, int]]:
        """Returns numbers with their ink, float32 [h, w], and its place from the left and top."""
        rng, style, written, y = self.rng, self.style, [], 0.0
        for _ in range(style.lines):
            x, count = 0.0, int(rng.integers(*style.words, endpoint=True))
            if length and style.digits[0] == style.digits[1]:  # as many digits in a line
                count = max(1, style.digits[0] // length)
            for _ in range(count):
                fewest = max(style.digits[0], 2 if style.touching else 1)
                number, ink = self.number(length or int(rng.integers(fewest, style.digits[1] + 1)))
                top = y + (1.5 + rng.normal(0, 0.04)) * self.height - len(ink)
                written.append((number, ink, int(x), max(0, int(top))))
                x += ink.shape[1] + rng.uniform(1, 1.8) * self.height
            y += rng.uniform(1.6, 2.1) * self.height
        first = min(top for *_, top in written)
        return [(number, ink, left, top - first) for number, ink, left, top in written]

    def number(self, length: int) -> tuple[str, Array]:
        """Returns a number and its ink."""
        rng, style, usual = self.rng, self.style, self.rng.uniform(*self.style.gap)
        touching = (rng.random(length) < 0.3) & style.touching
        touching[rng.integers(length > 1, length)] = style.touching
        text, row = "", np.zeros((int(2.4 * self.height), 0), np.float32)
        for place in range(length):
            digit, ink = self.digit()
            gap = np.clip(usual * rng.uniform(0.75, 1.25), *style.gap) * self.height
            left = row.shape[1] + max(3, round(gap)) if place else 0
            if place and touching[place]:
                for _ in range(50):
                    if _room(row, ink) <= 0.15 * self.height:
                        break  # else one would be written into the other
                    digit, ink = self.digit()
                over = _room(row, ink) + max(2, rng.uniform(0.01, 0.05) * self.height)
                left = max(0, row.shape[1] - round(over))
            text += digit
            row = np.pad(row, ((0, 0), (0, max(0, left + ink.shape[1] - row.shape[1]))))
            row[:, left : left + ink.shape[1]] = np.maximum(row[:, left : left + ink.shape[1]], ink)
        return text, _cropped(row)

    def digit(self) -> tuple[str, Array]:
        """Returns a digit and its ink, on a line and with room above and below."""
        rng, number = self.rng, int(self.rng.integers(len(self.images)))
        fine = cv2.resize(self.images[number], [28 * FINE] * 2, interpolation=cv2.INTER_CUBIC)
        fine = cv2.GaussianBlur(fine, (0, 0), 0.4 * FINE)
        solid = (fine > 0.42 * fine.max()).astype(np.uint8)
        if self.style.broken and rng.random() < 0.75:  # straight across: where that takes least
            centre = rng.choice(np.argwhere(solid))[::-1]
            gap, angles = rng.uniform(0.05, 0.1) * DIGIT, np.arange(12) * np.pi / 12
            ways = 0.17 * DIGIT * np.stack([np.cos(angles), np.sin(angles)], 1)
            cuts = [_line(solid.shape, [centre - way, centre + way], gap) > 0.5 for way in ways]
            solid ^= min((solid * cut for cut in cuts), key=np.sum)
        size, slant = self.height * rng.uniform(0.9, 1.1), self.slant + rng.normal(0, 0.04)
        ink = _strokes(solid, size, self.pen, slant)
        room = max(0, int(2.4 * self.height) - len(ink))
        below = int(np.clip(rng.normal(0.7, 0.03) * self.height, 0, room))
        return str(self.labels[number]), np.pad(ink, ((room - below, below), (0, 0)))


def _room(row: Array, ink: Array) -> int:
    """Returns how much nearer than its box ink can come to a row until strokes touch, in pixels."""
    both = (row > 0.5).any(1) & (ink > 0.5).any(1)
    rooms = np.argmax(row[:, ::-1] > 0.5, 1) + np.argmax(ink > 0.5, 1)
    return int(rooms[both].min()) if both.any() else len(ink)


def _strokes(solid: Array, height: float, pen: float, slant: float) -> Array:
    """Returns how much of each pixel ink covers, float32 [h, w], cropped to it.

    `solid` is uint8, 0 or 1, `DIGIT` pixels for `height`. Edges are sharp at any size. With a `pen`
    its width is that of all strokes, else they are as thick as they are.
    """
    solid = np.pad(solid, 2 * FINE)
    if pen:
        pen = max(pen, 1.6 / height)  # thinner, it would vanish
        skeleton, thick = _skeleton(solid), _distance(solid)
        usual = np.median(thick[skeleton > 0])
        filled = (thick <= 1.3 * usual).astype(np.uint8)  # loops that ink has filled are 0
        away = np.minimum(_distance(1 - skeleton), _distance(filled) - 0.3 * usual)
        inside = pen / 2 * DIGIT - away
    else:
        inside = _distance(solid) - _distance(1 - solid) + 0.5 - solid
    inside = cv2.GaussianBlur(inside, (0, 0), 0.2 * FINE)
    scale, lean = height / DIGIT, abs(slant) * len(solid)
    matrix = scale * np.array([[1, -slant, lean if slant > 0 else 0], [0, 1, 0]])
    size = (int(scale * (solid.shape[1] + lean)) + 1, int(scale * len(solid)) + 1)
    inside = cv2.warpAffine(inside, matrix, size, borderValue=-99.0)
    return _cropped((0.5 + scale * inside).clip(0, 1))


def _cropped(ink: Array) -> Array:
    x, y, width, height = cv2.boundingRect((ink > 0.2).astype(np.uint8))
    return ink[y : y + height, x : x + width]


def _distance(mask: Array) -> Array:
    return cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _skeleton(solid: Array) -> Array:
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


def _line(shape: Sequence[int], points: Array, width: float) -> Array:
    """Returns a stroke through points [n, 2] (x, y) in pixels, float32 of that shape."""
    ink = np.zeros(shape, np.uint8)
    path = [np.rint(np.asarray(points) * 16).astype(np.int32)]
    cv2.polylines(ink, path, False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return ink.astype(np.float32) / 255


def _sheet(written: Sequence[tuple[str, Array, int, int]]) -> Array:
    """Returns all ink that is written."""
    high = max(top + len(ink) for _, ink, _, top in written)
    sheet = np.zeros((high, max(left + ink.shape[1] for _, ink, left, _ in written)), np.float32)
    for _, ink, left, top in written:
        part = sheet[top : top + len(ink), left : left + ink.shape[1]]
        np.maximum(part, ink, out=part)
    return sheet


def _framed(writer: _Writer, ink: Array) -> tuple[Array, tuple[int, int]]:
    """Returns the ink with its frame, and the room right and left, and above and below, for it."""
    rng, height, frame = writer.rng, writer.height, writer.style.frame
    if not frame:
        return ink, (0, 0)
    half, width = np.array(ink.shape[::-1]) / 2, (writer.pen or 0.1) * height
    if frame == "underline":
        ends = np.add(half, (rng.uniform(-0.05, 0.3) * height, width / 2))
        steps = rng.uniform(0.1, 0.28) * height * np.arange(1, rng.integers(2, 4))
        shake = rng.normal(0, 0.025, (3, 2)) * height
        lines = [np.array([(-1, 1), (0, 1), (1, 1)]) * ends + shake + (0, step) for step in steps]
    else:  # a superellipse whose corners are outside of the ink's
        power = rng.uniform(2, 2.5) if half[0] < 2 * half[1] else rng.uniform(2.5, 4)
        if frame == "box":
            power, width = 60, rng.choice([width, 0.03 * height])
        angles = rng.uniform(0, 6) + np.linspace(0, 2 * np.pi * rng.uniform(0.97, 1.06), 400)
        ways, near = np.stack([np.cos(angles), np.sin(angles)], 1), rng.uniform(0.18, 0.4) * height
        axes = half + near
        axes = axes * np.sum((half / axes) ** power) ** (1 / power) + 0.6 * near
        wave = 0.05 * np.sin(2 * angles + 1) + np.linspace(-0.06, 0.06, len(angles))
        lines = [np.sign(ways) * np.abs(ways) ** (2 / power) * axes + ways * wave[:, None] * height]
    most = np.max([np.abs(line).max(0) for line in lines], 0)
    right, down = np.ceil(np.maximum(most + width - half, 0)).astype(int)
    ink = np.pad(ink, ((down, down), (right, right)))
    for line in lines:
        ink = np.maximum(ink, _line(ink.shape, line + half + (right, down), width))
    return ink, (right, down)


def _view(writer: _Writer, shape: Sequence[int]) -> tuple[Array, tuple[int, int], Array]:
    """Returns the homography from the ink's pixels to the picture's, the picture's size, and in it
    the width of the desk left, above, right and below: on one to four sides, 3 to 40 % of it.
    """
    rng, style, height, (high, wide) = writer.rng, writer.style, writer.height, shape
    view = cv2.getRotationMatrix2D((0, 0), rng.uniform(-style.turn, style.turn), 1)
    far = max(style.size or (high + 4 * height, wide + 4 * height))
    view = np.vstack([view, [*(rng.uniform(-1, 1, 2) * style.perspective / far), 1]])
    view = view @ [[1, 0, -wide / 2], [0, 1, -high / 2], [0, 0, 1]]
    corners = np.float32([[[0, 0], [wide, 0], [0, high], [wide, high]]])
    seen = cv2.perspectiveTransform(corners, view)[0]
    room = seen.max(0) - seen.min(0)
    before, after = rng.uniform(*style.margin, (2, 2)) * height
    if style.size:
        spare = np.maximum(style.size - room, 0)
        before = spare * rng.uniform(0.06, 0.94, 2)
        after = style.size - room - before
    size, strips = before + room + after, np.zeros(4)
    if style.desk:
        sides = rng.permutation(4)[: rng.choice([1, 1, 2, 2, 3, 4])]
        share = 1 - (1 - rng.uniform(0.03, 0.4)) ** (1 / len(sides))
        for side in sides:
            strips[side] = max(3, size[side % 2] * share / (1 - share))
            size[side % 2] += strips[side]
    width, depth = np.ceil(size).astype(int)
    right, down = before + strips[:2] - seen.min(0)
    return [[1, 0, right], [0, 1, down], [0, 0, 1]] @ view, (int(width), int(depth)), strips


def _photograph(writer: _Writer, ink: Array, view: Array, base: float, strips: Array) -> Array:
    """Returns a picture, uint8 [h, w, 3] (4 if it is transparent), of ink as the picture has it.

    The rules are for writing on the line `base` pixels below the first ink.
    """
    rng, style, height, shape = writer.rng, writer.style, writer.height, ink.shape
    if style.neighbour:
        _put_across_edge(ink, _cropped(writer.digit()[1]), rng)
    rough = (0.5 + _cloud(rng, shape, max(1.5, 0.03 * height))).clip(0, 1)
    x, y, wide, high = cv2.boundingRect((ink > 0).astype(np.uint8))
    inked = np.s_[y : y + high, x : x + wide]  # a small part of a large picture
    ink[inked] = ink[inked] * rng.uniform(*style.opacity) * (1 - style.grain * rough[inked])
    colour = np.float32(rng.choice(style.inks))
    if style.transparent:
        return np.rint(np.dstack([np.full((*shape, 3), colour), 255 * ink])).astype(np.uint8)
    ground = rng.choice(style.papers) + rng.normal(0, 3)
    picture = np.float32(ground) + style.smudges * _cloud(rng, shape, height)[..., None]
    for rules, printed in _rules(writer, shape, view, base):
        picture += rng.uniform(0.6, 1) * rules[..., None] * (printed - picture)
    picture[inked] += ink[inked][..., None] * (colour - picture[inked])
    if style.desk:
        picture = _on_desk(writer, picture, strips)
    picture *= _light(writer, shape)[..., None]
    blur = rng.uniform(*style.blur) * height
    if blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture += rng.uniform(*style.noise) * rng.standard_normal((*shape, 1), np.float32)
    return np.rint(picture, out=picture).clip(0, 255, out=picture).astype(np.uint8)


def _cloud(rng: np.random.Generator, shape: Sequence[int], grain: float) -> Array:
    """Returns smooth noise of standard deviation about 1; structures are `grain` pixels large."""
    coarse = rng.standard_normal([max(2, int(side / grain)) for side in shape], np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _put_across_edge(picture: Array, ink: Array, rng: np.random.Generator) -> None:
    """Writes ink so that an edge of the picture cuts off 40 to 75 % of it."""
    side, shown = rng.integers(4), rng.uniform(0.25, 0.6)
    picture, ink = np.rot90(picture, side), np.rot90(ink, side)  # the edge is the left one then
    ink = ink[:, int((1 - shown) * ink.shape[1]) :]
    top = int(rng.uniform(0.1, 0.9) * max(0, len(picture) - len(ink)))
    picture[top : top + len(ink), : ink.shape[1]] = ink[: len(picture)]


def _rules(writer: _Writer, shape: Sequence[int], view: Array, base: float) -> list:
    """Returns how printed lines or dots cover the picture, float32, and their colours."""
    rng, height, ruling = writer.rng, writer.height, writer.rng.choice(writer.style.rulings)
    if not ruling:
        return []
    y, x = np.indices(shape, np.float32)
    back = np.float32(np.linalg.inv(view))
    across, down, far = np.tensordot(back, [x, y, np.ones_like(x)], 1)
    across, down = across / far, down / far
    step = height * (rng.uniform(1.1, 1.8) if ruling == "lined" else rng.uniform(0.45, 1.3))
    width = max(1, step * rng.uniform(0.015, 0.035))

    def lines(place: Array, first: float) -> Array:
        distance = np.abs((place - first + step / 2) % step - step / 2)
        return (width / 2 + 0.5 - distance).clip(0, 1)

    rows = lines(down, base + rng.normal(0, 0.08) * step)
    columns = lines(across, rng.uniform(0, step))
    ways = {"lined": rows, "squared": np.maximum(rows, columns)}
    if ruling == "dotted":
        width *= 3
        ways["dotted"] = lines(down, base) * lines(across, 0)
    layers = [(ways[ruling], rng.choice(RULES))]
    if ruling == "lined" and rng.random() < 0.5:  # the margin
        edge = np.abs(across + rng.uniform(0.25, 1.2) * height)
        layers.append(((width / 2 + 0.5 - edge).clip(0, 1), np.array((150, 140, 225))))
    return layers


def _light(writer: _Writer, shape: Sequence[int]) -> Array:
    """Returns the share of the light that each pixel gets, float32."""
    rng, style, longer = writer.rng, writer.style, max(shape)
    y, x = map(np.float32, np.ogrid[-1 : 1 : 1j * shape[0], -1 : 1 : 1j * shape[1]])

    def side(offset: float) -> Array:  # of a line of any direction, -1 to 1 in the picture
        way = rng.uniform(0, 2 * np.pi)
        right, down = np.float32([np.cos(way), np.sin(way)])
        return (right * x + down * y - np.float32(offset)) / 1.42

    light = 1 - np.float32(rng.uniform(0, style.light)) * (0.5 + side(0) / 2)
    light -= np.float32(rng.uniform(0, style.light) / 4) * (x**2 + y**2)  # the lens
    hard = style.shadow == "hard"
    if hard or (style.shadow and rng.random() < 0.7):
        dark = side(rng.uniform(-0.4, 0.4))
        if rng.random() < 0.4:  # the corner of what throws it
            dark = np.minimum(dark, side(rng.uniform(-0.6, 0.2)))
        edge = rng.uniform(1, 6) / longer if hard else rng.uniform(0.2, 0.8)
        deep = rng.uniform(0.25, 0.6) if hard else rng.uniform(0.15, 0.45)
        light *= 1 - np.float32(deep) * (0.5 + dark / np.float32(edge)).clip(0, 1)
    return light


def _on_desk(writer: _Writer, picture: Array, strips: Array) -> Array:
    """Covers strips of the picture with a dark desk, along a sheet that lies a little askew."""
    rng, height, (high, wide) = writer.rng, writer.height, picture.shape[:2]
    y, x = map(np.float32, np.ogrid[:high, :wide])
    sheet = np.ones((high, wide), np.float32)
    for strip, place, along in zip(strips, (x, y, wide - x, high - y), (y, x, y, x), strict=True):
        if strip:
            lean = rng.uniform(-0.2, 0.2) * height / max(high, wide)
            sheet = np.minimum(sheet, (place - strip + lean * along + 0.5).clip(0, 1))
    grain = _cloud(rng, (high, wide), max(2, 0.03 * height))
    grain = cv2.blur(grain, (max(1, int(height)), 1)) if rng.random() < 0.6 else grain / 4
    desk = rng.choice(DESKS) * (1 + 0.5 * grain[..., None])
    return desk + sheet[..., None] * (picture - desk)


def _blank(writer: _Writer) -> Array:
    return np.zeros((writer.rng.uniform(1, 5, 2) * writer.height).astype(int), np.float32)


def _noise(writer: _Writer) -> Array:
    """Speckles, clouds, or what the camera adds alone."""
    rng, ink = writer.rng, _blank(writer)
    form = rng.integers(3)
    if form == 0:
        return (rng.random(ink.shape) < rng.uniform(0.005, 0.1)).astype(np.float32)
    if form == 1:
        ink += 0.4 + 0.3 * _cloud(rng, ink.shape, rng.uniform(2, writer.height / 2))
    return ink.clip(0, 1)


def _text(choices: str, most: int, writer: _Writer) -> Array:
    """Writes some of `choices` in one font, a little bent, with a pen or as printed."""
    rng = writer.rng
    path = pathlib.Path(matplotlib.get_data_path(), "fonts/ttf", f"{rng.choice(FONTS)}.ttf")
    font = ImageFont.truetype(str(path), round(DIGIT / 0.72))  # capital letters are 0.72 high
    text = " ".join(rng.choice(choices.split(), rng.integers(1, most + 1)))
    page = Image.new("L", (int(font.getlength(text)) + 80, 2 * DIGIT))
    ImageDraw.Draw(page).text((40, 20), text, 255, font)
    grid = np.indices(page.size[::-1]).astype(np.float32)
    down, right = (axis + 4 * _cloud(rng, axis.shape, 90) for axis in grid)
    solid = cv2.remap(np.asarray(page), right, down, cv2.INTER_LINEAR) > 128
    return _strokes(solid.astype(np.uint8), writer.height, writer.pen, rng.uniform(-0.05, 0.15))


def _scribble(writer: _Writer) -> Array:
    rng, count = writer.rng, int(writer.rng.integers(9, 30))
    along, form, size = np.linspace(0, 1, count), rng.integers(4), rng.uniform((1, 0.6), (4, 2))
    turns = np.pi * along * count
    points = (
        np.stack([along, np.arange(count) % 2], 1),  # to and fro
        rng.random((count, 2)),  # tangled
        np.stack([0.8 * along + 0.1 * np.cos(turns), 0.5 + 0.5 * np.sin(turns)], 1),  # a coil
        np.stack([0.5 - 0.5 * np.cos(7 * along), 0.5 + 0.4 * np.sin(40 * along)], 1),  # a tuft
    )[form]
    return _by_hand([points * size + rng.normal(0, 0.04, points.shape)], writer)


def _drawing(writer: _Writer) -> Array:
    lines, size = [], writer.rng.uniform(0.1, 0.3)
    for text in writer.rng.choice(DRAWINGS).split("/"):
        line = np.array([point.split(",") for point in text.split()], float)
        if line.shape == (1, 3):  # a circle
            angles = np.linspace(0, 2 * np.pi, 24)
            line = line[0, :2] + line[0, 2] * np.stack([np.cos(angles), np.sin(angles)], 1)
        lines.append(size * line)
    return _by_hand(lines, writer)


def _by_hand(lines: Sequence[Array], writer: _Writer) -> Array:
    """Returns lines through points [n, 2] by a hand that shakes a little."""
    lines = [(1 + line + writer.rng.normal(0, 0.03, line.shape)) * writer.height for line in lines]
    shape = (np.max([line.max(0) for line in lines], 0) + writer.height).astype(int)[::-1]
    width = (writer.pen or 0.1) * writer.height
    return _cropped(np.max([_line(shape, line, width) for line in lines], 0))


_PHOTO = Kind(
    **dict(turn=15, perspective=0.3, light=0.45, shadow="soft"),
    **dict(blur=(0.004, 0.018), noise=(2, 6), quality=(70, 92)),
)
_CHALK = Kind(
    **dict(papers=BOARDS, inks=(CHALK, CHALK, (150, 225, 240)), pen=(0.08, 0.15), smudges=6),
    **dict(opacity=(0.6, 0.95), grain=0.5, light=0.3, turn=8),
)
_WHITEBOARD = Kind(
    **dict(papers=((238, 236, 232), (225, 226, 224)), inks=(BLACK, BLUE, RED, GREEN), smudges=4),
    **dict(pen=(0.06, 0.12), opacity=(0.75, 0.95), light=0.2, turn=8, perspective=0.15),
)
_PENCIL = Kind(
    **dict(pen=(0.04, 0.08), inks=((95, 95, 95), (110, 108, 106)), opacity=(0.45, 0.8), grain=0.45)
)
_FAR = Kind(
    **dict(size=(4000, 3000), height=(60, 160), light=0.3, shadow="soft", turn=6),
    **dict(blur=(0.004, 0.015), noise=(2, 5)),
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
    "chalk": _CHALK,
    "whiteboard": _WHITEBOARD,
    "underlined": Kind(frame="underline"),
    "circled": Kind(frame="circle"),
    "boxed": Kind(frame="box"),
    "ballpoint": Kind(pen=(0.03, 0.055), height=(50, 150), inks=(BLUE, BLACK, (120, 40, 30))),
    "marker": Kind(pen=(0.15, 0.2), gap=(0.2, 0.5)),
    "pencil": _PENCIL,
    "blue on yellow": Kind(papers=((120, 226, 244), (150, 238, 250)), inks=(BLUE, (140, 80, 50))),
    "broken": Kind(broken=True),
    "neighbour": Kind(neighbour=True, margin=(1.3, 2.2)),
    "small": Kind(size=(200, 200), gap=(0.15, 0.35), height=(22, 60), pen=(0.09, 0.14)),
    "small in 12 megapixels": _FAR,
    "JPEG 30": Kind(quality=(30, 30)),
    "transparent": Kind(transparent=True, inks=(WHITE, WHITE, BLACK, BLUE, RED)),
    "page": Kind(lines=6, digits=(8, 8), gap=(0.15, 0.45), height=(36, 70)),
    "several": Kind(lines=2, words=(2, 4), digits=(1, 4), gap=(0.1, 0.4), height=(36, 90)),
}
_EMPTY = functools.partial(dataclasses.replace, _PHOTO, turn=8, margin=(0.4, 3))
_ON_PAPER = functools.partial(_EMPTY, rulings=("", "", "lined", "squared"))
EMPTY_KINDS = {
    "blank": _EMPTY(marks=_blank),
    "blank ruled": _EMPTY(marks=_blank, rulings=("lined", "squared", "dotted")),
    "letters": _ON_PAPER(marks=functools.partial(_text, LETTERS, 4)),
    "words": _ON_PAPER(marks=functools.partial(_text, WORDS, 3)),
    "scribbles": _ON_PAPER(marks=_scribble),
    "noise": _EMPTY(marks=_noise, noise=(3, 60), margin=(0, 0), turn=0, perspective=0),
    "punctuation": _ON_PAPER(marks=functools.partial(_text, MARKS, 4)),
    "drawings": _ON_PAPER(marks=_drawing),
}
