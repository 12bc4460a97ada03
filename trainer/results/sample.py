"""`sample.png`: a number on paper, made of test digits, for the first try of `trainer.predict`."""

import io

import numpy as np
from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo

HEIGHT = 84  # pixels: of MNIST's 20, to which its digits are scaled
PAPER, RULES, INK = (244, 240, 230), (176, 200, 222), (36, 52, 128)  # red, green, blue


def draw(images: np.ndarray, labels: np.ndarray, seed: int) -> bytes:
    """Returns a PNG picture of a number of four to six of `images`, uint8 [n, 28, 28].

    It is a function of `seed`; the file's text `number` has their `labels`, integers [n].
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(images), size=rng.integers(4, 7))
    strokes = [_strokes(images[index], HEIGHT * rng.uniform(0.93, 1.07)) for index in chosen]
    gaps = (rng.uniform(0.22, 0.38, len(strokes)) * HEIGHT).astype(int)
    margin = int(0.9 * HEIGHT)
    width = sum(stroke.shape[1] for stroke in strokes) + int(gaps.sum()) + 2 * margin
    ink = np.zeros((3 * HEIGHT, width), np.float32)
    line, left = 2 * HEIGHT, margin + gaps[0] // 2
    for stroke, gap in zip(strokes, gaps, strict=True):
        top = line - len(stroke) + int(rng.normal(-0.02, 0.02) * HEIGHT)
        ink[top : top + len(stroke), left : left + stroke.shape[1]] = stroke
        left += stroke.shape[1] + gap
    paper = _paper(ink.shape, line)
    picture = paper + ink[..., None] * (np.float32(INK) - paper)
    png, text = io.BytesIO(), PngInfo()
    text.add_text("number", "".join(str(labels[index]) for index in chosen))
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(png, "PNG", pnginfo=text)
    return png.getvalue()


def _strokes(image: np.ndarray, height: float) -> np.ndarray:
    """Returns how much of each pixel ink covers, float32 [h, w], cropped; edges are sharp."""
    size = round(len(image) * height / 20)
    large = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    large = large.filter(ImageFilter.GaussianBlur(height / 45))  # takes MNIST's pixels away
    ink = (0.5 + 5 * (np.asarray(large, np.float32) / max(1, image.max()) - 0.45)).clip(0, 1)
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    if not len(rows):  # a black image
        return ink[:1, :1]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paper(shape: tuple[int, int], line: int) -> np.ndarray:
    """Returns ruled paper, darker towards one corner, float32 [h, w, 3]."""
    y, x = (np.linspace(0, 1, side, dtype=np.float32) for side in shape)
    light = 1 - 0.12 * (0.6 * y[:, None] + 0.4 * x) ** 2
    paper = np.full((*shape, 3), PAPER, np.float32)
    for row in range(line % int(1.4 * HEIGHT), shape[0], int(1.4 * HEIGHT)):
        paper[row : row + 2] = RULES
    return paper * light[..., None]
