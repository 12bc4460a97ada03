"""The best path over the candidates of a word."""

import numpy as np

from trainer.picture.find import Part
from trainer.picture.segment import Candidate

# Costs in nats.
PER_DIGIT, CUT, JOINED, TOO_LOW, WIDE, NARROW, SKIP, SKIP_AREA = 0.1, 0.3, 8.0, 8.0, 1.0, 0.1, 0.3, 14.0
# Mean and standard deviation of the logarithm of width by height, of MNIST's training digits.
_SHAPES = np.log([0.91, 0.40, 0.94, 0.80, 0.80, 0.93, 0.72, 0.78, 0.76, 0.68])
_SPREAD = np.array([0.19, 0.44, 0.22, 0.20, 0.20, 0.25, 0.21, 0.20, 0.21, 0.20])


def best_path(
    pieces: list[Part], candidates: list[Candidate], probabilities: np.ndarray, height: float
) -> tuple[float, tuple[int, ...]]:
    """Returns the cost of the best path and the numbers of the candidates on it."""
    best = [(0.0, ())]
    costs = candidate_costs(candidates, probabilities, height)
    for end, piece in enumerate(pieces, 1):
        skip = SKIP + min(SKIP_AREA * piece.area / height**2, 5)
        options = [(best[end - 1][0] + skip, best[end - 1][1])]
        for i, candidate in enumerate(candidates):
            if candidate.end == end:
                before, path = best[candidate.first]
                options.append((before + costs[i], (*path, i)))
        best.append(min(options))
    return best[-1]


def candidate_costs(candidates, probabilities, height):
    boxes = np.array([candidate.box for candidate in candidates], np.float64)
    wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
    digits = probabilities.argmax(1)
    costs = PER_DIGIT - np.log(np.maximum(probabilities.max(1), 1e-4))
    off = (np.log(wide / tall) - _SHAPES[digits]) / _SPREAD[digits]
    costs += WIDE * (off - 1).clip(0, 4) ** 2 + NARROW * (-off - 1).clip(0, 4) ** 2
    costs += TOO_LOW * np.maximum(0, 0.7 - tall / height)
    costs += CUT * np.array([candidate.seam for candidate in candidates])
    costs += JOINED * np.maximum(0, np.array([candidate.joined for candidate in candidates]) - 0.3)
    return costs
