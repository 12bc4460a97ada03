"""The best path through the cuts of a word: which of its candidates are its digits."""

import numpy as np

from trainer.picture.segment import Word

# Costs in nats: the weights of a conditional random field (Lafferty, McCallum and Pereira,
# "Conditional random fields", 2001) of most likelihood for pictures of MNIST's validation digits
# (`scripts/scenes.py`).
DIGIT, DOUBT = 0.4, 8.2  # of a digit, and of the probability of all but its two likeliest classes
LOW, WIDE = 5.8, 4.2  # for each height by which one is lower than 0.85, or wider than 1
INK = 6.0  # for each nat by which its strokes are longer than 1.1 times those of its class
JOINED = 1.8  # for each height by which a second connected stroke in it exceeds 0.3
CUT, STROKE = 2.1, 1.1  # of a cut through ink, and for each stroke but the first that it crosses
SKIP, LENGTH = 2.4, 4.0  # of ink that is no digit, and for each height of its strokes
# Length of all strokes of the digits 0 to 9 in their own heights: geometric means over such digits.
LENGTHS = np.array([2.53, 1.03, 2.32, 2.05, 1.84, 2.12, 2.08, 1.68, 2.32, 1.88])


def best_path(word: Word, probabilities: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Returns the least cost of a path from the first cut to the last, and its candidates.

    `probabilities` is float32 [n, 10], of the word's candidates.
    """
    costs, length = _costs(word, probabilities), word.ink / (word.stroke * word.height)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for end in range(1, len(word.ink)):
        skips = SKIP + LENGTH * (length[end] - length[:end]) + [cost for cost, _ in best]
        skips[~word.before[:end, end]] = np.inf
        options = [(float(skips.min()), best[int(skips.argmin())][1])]
        for i, candidate in enumerate(word.candidates):
            if candidate.end == end:
                before, path = best[candidate.first]
                options.append((before + costs[i], (*path, i)))
        best.append(min(options))
    return best[-1]


def _costs(word: Word, probabilities: np.ndarray) -> np.ndarray:
    shapes = [(*each.box, each.joined, each.ink / word.stroke) for each in word.candidates]
    left, top, right, bottom, joined, length = np.array(shapes).T / word.height
    longer = np.log(length / (bottom - top) / LENGTHS[probabilities.argmax(1)])
    crossed = word.crossed[[candidate.end for candidate in word.candidates]]
    # The classifier gives about a tenth to all classes of what is no digit, and what may be one of
    # two digits shares its probability among these.
    costs = DIGIT + DOUBT * (1 - np.sort(probabilities, axis=1)[:, -2:].sum(1))
    costs += LOW * np.maximum(0, 0.85 - (bottom - top)) + WIDE * np.maximum(0, right - left - 1)
    costs += INK * np.maximum(0, longer - 0.1) + JOINED * np.maximum(0, joined - 0.3)
    return costs + CUT * (crossed > 0) + STROKE * np.maximum(0, crossed - 1)
