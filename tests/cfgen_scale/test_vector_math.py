"""Exponentials and logarithms of compiled loops against numpy's in float64."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from cfgen_scale import compiled_likelihood, vector_math
from cfgen_scale.drawing import compiled
from cfgen_scale.vector_math import exp_of_negative, largest_of, log_1_plus


@njit
def exps(values, out):
    for i in range(len(values)):
        out[i] = exp_of_negative(values[i])


@njit
def logs(values, out):
    for i in range(len(values)):
        out[i] = log_1_plus(values[i])


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


@pytest.mark.parametrize("n", [1, 63, 64, 1001])
def test_the_largest_one(n):
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    assert largest_of(values) == values.max()
    assert largest_of(np.append(values, np.float32(np.nan))) == values.max()


@pytest.mark.parametrize("user", [compiled_likelihood, compiled])
def test_loops_kept_from_an_earlier_run_are_not_those_of_other_functions(user):
    digest = hashlib.sha256(Path(vector_math.__file__).read_bytes()).hexdigest()[:16]
    assert digest == user.VECTOR_MATH, f"set VECTOR_MATH in {user.__file__} to {digest!r}"
