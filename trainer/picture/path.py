"""The best path over the candidates of a word, by the classifier's answers and their shapes."""

import numpy as np

from trainer.picture.find import Part
from trainer.picture.segment import Candidate

# Costs beside the classifier's doubt, by which it says that a field is no digit; found by a search
# over pictures of MNIST's validation digits (`scripts/scenes.py`).
PER_DIGIT, PER_NAT = 0.05, 0.3  # of a digit, and of a nat by which its class is not certain
CUT, LOOP = 0.2, 0.3  # a cut through a stroke, and for each further stroke that it crosses
JOINED = 1.0  # for each height by which a second connected stroke exceeds 0.3 of a digit's
TOO_LOW = 1.0  # for each height by which a digit is lower than 0.7 of the others
TOO_WIDE = 0.5  # for each height by which a digit is wider than high
WIDE, NARROW = 0.2, 0.05  # for the square of the standard deviations above the first
SKIP, SKIP_LENGTH = 0.1, 2.0  # of a piece that is no digit, and for each height of its stroke
# Mean and standard deviation of the logarithm of width by height, of MNIST's training digits.
_SHAPES = np.log([0.91, 0.40, 0.94, 0.80, 0.80, 0.93, 0.72, 0.78, 0.76, 0.68])
_SPREAD = np.array([0.19, 0.44, 0.22, 0.20, 0.20, 0.25, 0.21, 0.20, 0.21, 0.20])


def best_path(
    pieces: list[Part], candidates: list[Candidate], probabilities: np.ndarray, height: float
) -> tuple[int, ...]:
    """Returns the candidates on the best path from the first piece to the last, by number.

    `probabilities` is float32 [n, 10], of the candidates; `height` that of a digit, in pixels.
    """
    costs = _costs(candidates, probabilities, height)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for end, piece in enumerate(pieces, 1):
        before, path = best[-1]
        skip = SKIP + SKIP_LENGTH * piece.area / (piece.stroke * height)
        options = [(before + skip, path)]
        for i, candidate in enumerate(candidates):
            if candidate.end == end:
                before, path = best[candidate.first]
                options.append((before + costs[i], (*path, i)))
        best.append(min(options))
    return best[-1][1]


def _costs(candidates: list[Candidate], probabilities: np.ndarray, height: float) -> np.ndarray:
    left, top, right, bottom = np.array([candidate.box for candidate in candidates]).T / height
    wide, tall = right - left, bottom - top
    digits, (second, first) = probabilities.argmax(1), np.sort(probabilities, axis=1)[:, -2:].T
    off = (np.log(wide / tall) - _SHAPES[digits]) / _SPREAD[digits]
    seams = np.array([candidate.seam for candidate in candidates])
    joined = np.array([candidate.joined for candidate in candidates])
    # The classifier gives about a tenth to all classes of what is no digit, and what may be one of
    # two digits shares its probability among these.
    costs = PER_DIGIT + (1 - first - second) - PER_NAT * np.log(np.maximum(first, 1e-4))
    costs += WIDE * np.clip(off - 1, 0, 4) ** 2 + NARROW * np.clip(-off - 1, 0, 4) ** 2
    costs += TOO_LOW * np.maximum(0, 0.7 - tall) + TOO_WIDE * np.maximum(0, wide - 1)
    costs += JOINED * np.maximum(0, joined - 0.3)
    return costs + CUT * (seams > 0) + LOOP * np.maximum(0, seams - 1)
