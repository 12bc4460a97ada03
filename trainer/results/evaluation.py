"""Metrics of a classifier's logits: loss, accuracy, confusion, calibration, confidence interval."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
_TEMPERATURES = 0.05, 20.0  # the bounds of the search
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a model answers a set of labelled digits, every digit counted once.

    Attributes:
      loss: mean cross-entropy in nats, at the temperature asked for.
      accuracy: share of right answers; no temperature changes it.
      mistakes: number of wrong answers.
      probabilities: float64 [n, 10], at the temperature asked for.
      confusion: int64 [10, 10]: digits of the row's class that were read as the column's.
      calibration_error: `calibration_error` of the probabilities.
    """

    loss: float
    accuracy: float
    mistakes: int
    probabilities: np.ndarray
    confusion: np.ndarray
    calibration_error: float


def evaluate(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Evaluation:
    """Evaluates logits, float [n, 10], against labels, integers [n], n at least 1."""
    labels, read = np.asarray(labels, np.int64), logits.argmax(1)
    probabilities = softmax(logits, temperature)
    mistakes = int((read != labels).sum())
    return Evaluation(
        loss=cross_entropy(logits, labels, temperature),
        accuracy=(len(labels) - mistakes) / len(labels),
        mistakes=mistakes,
        probabilities=probabilities,
        confusion=np.bincount(labels * 10 + read, minlength=100).reshape(10, 10),
        calibration_error=calibration_error(probabilities, labels),
    )


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns the probabilities of `logits / temperature`, float64 [n, 10]."""
    return np.exp(_log_softmax(logits, temperature))


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Returns the mean cross-entropy in nats of `logits / temperature`."""
    return float(-_log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    shifted = (logits.astype(np.float64) - logits.max(1, keepdims=True)) / temperature
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns a reliability diagram's points, by bins of equal width of the confidence.

    Args:
      probabilities: float [n, 10].
      labels: integers [n].

    Returns:
      float64 [bins that are not empty, 3]: mean confidence, accuracy, number of examples.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins)
    sums = np.stack([np.bincount(bins, confidence), np.bincount(bins, right), counts], 1)
    sums = sums[counts > 0]
    return sums / np.stack([sums[:, 2], sums[:, 2], np.ones(len(sums))], 1)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the expected calibration error: the mean gap between confidence and accuracy.

    Each bin of `reliability` is weighted by its examples: Guo et al.,
    https://arxiv.org/abs/1706.04599, section 2.
    """
    confidence, accuracy, counts = reliability(probabilities, labels).T
    return float((counts * np.abs(accuracy - confidence)).sum() / counts.sum())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature, between 0.05 and 20, that minimizes the cross-entropy.

    Temperature scaling: Guo et al., https://arxiv.org/abs/1706.04599, section 4.2. The
    cross-entropy is convex in the inverse temperature, so that golden-section search finds its
    minimum; 32 steps narrow the logarithm of the interval to a millionth.

    Args:
      logits: float [n, 10], of digits that were not trained on.
      labels: integers [n].
    """

    def loss(logarithm: float) -> float:
        return cross_entropy(logits, labels, math.exp(logarithm))

    low, high = map(math.log, _TEMPERATURES)
    for _ in range(32):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Returns the bounds of Wilson's score interval of a share; z = 1.96 is 95 %.

    Wilson, https://doi.org/10.1080/01621459.1927.10502953.
    """
    share, spread = right / total, z * z / total
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def class_table(confusion: np.ndarray) -> list[dict[str, Any]]:
    """Returns for each digit its `examples`, `missed`, `recall` and `mistaken_for`.

    `mistaken_for` is the most frequent wrong answer and its count, `5 (2)`, or empty.
    """
    rows = []
    for digit, counts in enumerate(confusion):
        examples, right = int(counts.sum()), int(counts[digit])
        wrong = np.where(np.arange(10) == digit, 0, counts)
        rows.append(
            {
                "digit": digit,
                "examples": examples,
                "missed": examples - right,
                "recall": right / examples if examples else 1.0,
                "mistaken_for": f"{wrong.argmax()} ({wrong.max()})" if wrong.any() else "",
            }
        )
    return rows


def surest_mistakes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the indices of all mistakes, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]
