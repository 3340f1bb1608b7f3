"""Exponentials and logarithms of compiled loops against numpy's in float64."""

import numpy as np
from numba import njit

from cfgen_scale.vector_math import exp_of_negative, larger, log_1_plus


@njit
def exps(values, out):
    for i in range(len(values)):
        out[i] = exp_of_negative(values[i])


@njit
def logs(values, out):
    for i in range(len(values)):
        out[i] = log_1_plus(values[i])


@njit
def maximum(values):
    most = values[0]
    for i in range(len(values)):
        most = larger(most, values[i])
    return most


def applied(function, values):
    values = np.asarray(values, dtype=np.float32)
    out = np.empty_like(values)
    function(values, out)
    return out


def test_exp_keeps_float32s_digits():
    x = np.linspace(-87, 0, 300_001, dtype=np.float32)
    np.testing.assert_allclose(applied(exps, x), np.exp(x.astype(np.float64)), rtol=4e-7)


def test_log_of_1_plus_keeps_float32s_digits_from_the_smallest_to_the_largest():
    x = np.exp(np.linspace(-80, 80, 300_001)).astype(np.float32)
    np.testing.assert_allclose(applied(logs, x), np.log1p(x.astype(np.float64)), rtol=4e-7)
    assert applied(logs, [0.0]) == 0


def test_what_is_not_a_number_stays_so():
    assert np.isnan(applied(exps, [np.nan])).all()
    assert np.isnan(applied(logs, [np.nan, np.inf])).all()


def test_far_below_exp_is_next_to_nothing():
    np.testing.assert_array_less(applied(exps, [-1e4, -np.inf]), 2e-38)


def test_the_larger_one():
    values = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    assert maximum(values) == values.max()
