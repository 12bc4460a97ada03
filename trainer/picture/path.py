"""The best path over the candidates of a word."""

import numpy as np

PER_DIGIT, TOO_WIDE, TOO_LOW, SKIP, JOINED = 1.2, 3.0, 3.0, 4.0, 6.0


def best_path(count, candidates, probabilities, height, areas):
    """Returns the indices of the candidates on the best path and its cost."""
    best = [(0.0, ())] + [None] * count
    for end in range(1, count + 1):
        options = [
            (
                best[end - 1][0] + SKIP * min(1.0, 4 * areas[end - 1] / height**2) + 0.3,
                best[end - 1][1],
            )
        ]
        for i, (first, stop, box, _, joined) in enumerate(candidates):
            if stop == end:
                wide, tall = box[2] - box[0], box[3] - box[1]
                cost = -np.log(max(probabilities[i].max(), 1e-4)) + PER_DIGIT
                cost += TOO_WIDE * max(0, wide / height - 1) + TOO_LOW * max(
                    0, 0.65 - tall / height
                )
                cost += JOINED * max(0, joined - 0.3)
                options.append((best[first][0] + cost, (*best[first][1], i)))
        best[end] = min(options, key=lambda o: o[0])
    return best[count]
