"""Expected ages, their errors and right genders, by hand."""

import numpy as np
import pytest

from age_gender import metrics
from age_gender.labels import AGE_CLASSES


def test_the_expected_age_is_the_mean_of_the_ages_by_their_probability():
    probabilities = np.zeros((2, AGE_CLASSES), np.float32)
    probabilities[0, [20, 40]] = 0.75, 0.25
    probabilities[1, 116] = 1
    assert metrics.compute_expected_age(probabilities).tolist() == [25, 116]


def test_an_error_has_no_sign():
    errors = metrics.compute_age_error(np.array([25.0, 30.5]), np.array([30, 30]))
    assert errors.tolist() == [5, 0.5] and errors.mean() == pytest.approx(2.75)


def test_a_probability_of_a_half_is_female():
    female = np.array([0.49, 0.5, 0.9, 0.1])
    assert metrics.estimate_gender(female).tolist() == [0, 1, 1, 0]
    assert metrics.is_gender_right(female, np.array([0, 0, 1, 1])).tolist() == [1, 0, 1, 0]
