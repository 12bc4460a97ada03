"""Metrics of a classifier's logits: loss, accuracy, confusion, calibration, confidence interval."""

import dataclasses
import math

import numpy as np

_BINS = 15
_TEMPERATURES = 0.05, 20.0
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a model answers n labelled digits, every digit counted once; n is at least 1."""

    labels: np.ndarray  # int64 [n]
    probabilities: np.ndarray  # float64 [n, 10]
    loss: float  # mean cross-entropy in nats

    @property
    def mistakes(self) -> np.ndarray:
        """The indices of the wrong answers, the most confident first."""
        wrong = np.flatnonzero(self.probabilities.argmax(1) != self.labels)
        return wrong[np.argsort(-self.probabilities[wrong].max(1), kind="stable")]

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return (len(self.labels) - len(self.mistakes)) / len(self.labels)

    @property
    def confusion(self) -> np.ndarray:
        """How many digits of the row's class were read as the column's, int64 [10, 10]."""
        pairs = self.labels * 10 + self.probabilities.argmax(1)
        return np.bincount(pairs, minlength=100).reshape(10, 10)

    @property
    def reliability(self) -> np.ndarray:
        """Confidence, accuracy and number of digits of 15 bins by confidence, float64 [n, 3]."""
        confidence = self.probabilities.max(1)
        right = self.probabilities.argmax(1) == self.labels
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        counts = np.bincount(bins)
        sums = np.stack([np.bincount(bins, confidence), np.bincount(bins, right)], 1)
        filled = counts > 0
        return np.column_stack([sums[filled] / counts[filled, None], counts[filled]])

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: Guo et al., https://arxiv.org/abs/1706.04599, section 2."""
        confidence, accuracy, counts = self.reliability.T
        return float((counts * np.abs(accuracy - confidence)).sum() / counts.sum())


def evaluate(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Evaluation:
    """Evaluates `logits / temperature`, float [n, 10], against labels, integers [n]."""
    loss = _cross_entropy(logits, labels, temperature)
    return Evaluation(labels.astype(np.int64), np.exp(_log_softmax(logits, temperature)), loss)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature, between 0.05 and 20, that minimizes the cross-entropy.

    Of `logits`, float [n, 10], and `labels`, integers [n]: Guo et al., section 4.2. The
    cross-entropy is convex in 1 / temperature: golden-section search.
    """

    def loss(logarithm: float) -> float:
        return _cross_entropy(logits, labels, math.exp(logarithm))

    low, high = map(math.log, _TEMPERATURES)
    for _ in range(32):  # narrows the interval to a millionth
        left, right = high - _GOLDEN_RATIO * (high - low), low + _GOLDEN_RATIO * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Returns Wilson's score interval, https://doi.org/10.1080/01621459.1927.10502953, 95 %."""
    share, spread = right / total, 1.96**2 / total  # the normal quantile of 97.5 %
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return float(-_log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    shifted = (logits.astype(np.float64) - logits.max(1, keepdims=True)) / temperature
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
