"""The metrics: what they count, how a temperature is fitted, and how sure an accuracy is."""

import numpy as np
import pytest

from trainer.results import evaluation
from trainer.results.evaluation import Evaluation


def overconfident(count: int = 4000, temperature: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right as often as their softmax says, divided by `temperature`."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(count, 10)) * 2
    shares = np.exp(logits).cumsum(1) / np.exp(logits).sum(1, keepdims=True)
    labels = (shares < rng.random((count, 1))).sum(1)
    return logits / temperature, labels


def test_loss_and_accuracy_count_every_digit_once() -> None:
    logits = np.log(np.array([[0.7] + [0.3 / 9] * 9, [0.2] + [0.8 / 9] * 9, [0.5] + [0.5 / 9] * 9]))
    result = evaluation.evaluate(logits + 100, np.array([0, 0, 3], np.uint8))
    assert result.loss == pytest.approx(-np.log([0.7, 0.2, 0.5 / 9]).mean())
    assert (result.accuracy, result.mistakes.tolist()) == (2 / 3, [2])
    np.testing.assert_allclose(result.probabilities, np.exp(logits))


def test_the_mistakes_come_first_and_right_answers_never() -> None:
    labels, sure = np.zeros(5, np.int64), np.array([0.6, 0.9, 0.7, 0.8, 0.95])
    probabilities = np.repeat((1 - sure)[:, None] / 9, 10, 1)
    probabilities[np.arange(5), [1, 2, 0, 3, 0]] = sure
    assert Evaluation(labels, probabilities, 0.0).mistakes.tolist() == [1, 3, 0]


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    labels, sure = np.arange(8), np.array([1.0, 1.0, 1.0, 1.0, 0.52, 0.52, 0.88, 0.88])
    probabilities = np.zeros((8, 10))
    probabilities[np.arange(8), labels] = sure
    probabilities[:, 9] = 1 - sure
    labels[[3, 4]] = 8  # one of the four surest is wrong, one of the two at 52 %
    expected = 4 / 8 * (1 - 0.75) + 2 / 8 * (0.52 - 0.5) + 2 / 8 * (1 - 0.88)
    result = Evaluation(labels, probabilities, 0.0)
    assert result.calibration_error == pytest.approx(expected)
    points = [[0.52, 0.5, 2], [0.88, 1, 2], [1, 0.75, 4]]
    np.testing.assert_allclose(result.reliability, points)


def test_the_fitted_temperature_is_the_one_that_calibrates() -> None:
    logits, labels = overconfident()
    fitted = evaluation.fit_temperature(logits, labels)
    assert fitted == pytest.approx(1 / 0.4, rel=0.05)  # of 4,000 random digits
    before, after = (evaluation.evaluate(logits, labels, t) for t in (1.0, fitted))
    assert after.calibration_error < 0.02 < before.calibration_error
    np.testing.assert_array_equal(after.confusion, before.confusion)
    assert after.accuracy == before.accuracy
    others = [evaluation.evaluate(logits, labels, fitted * f).loss for f in (0.98, 1.02)]
    assert after.loss < min(others)


def test_the_temperature_of_a_faultless_or_hopeless_model_is_bounded() -> None:
    labels = np.arange(10)
    assert evaluation.fit_temperature(np.eye(10), labels) == pytest.approx(0.05, rel=0.01)
    assert evaluation.fit_temperature(1 - np.eye(10), labels) == pytest.approx(20, rel=0.01)


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert evaluation.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert evaluation.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert evaluation.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert evaluation.wilson_interval(29, 29) == pytest.approx((0.8830, 1.0), abs=1e-4)
