"""Integration against closed forms: order of convergence, inversion, a Gaussian target."""

import math

import pytest
import torch

from cfgen_scale.ode import OdeConfig, integrate

SOLVERS = ("euler", "midpoint", "dopri5", "tsit5")


def growing(t, z):
    """dz/dt = (3 t^2 - 2) z, so z(1) = z(0) / e: linear, and dependent on time."""
    return (3 * t**2 - 2) * z


def error_after(solver, steps):
    z = torch.tensor([[1.0, -2.0]])
    exact = z / math.e
    return (integrate(growing, z, config=OdeConfig(solver, steps)) - exact).abs().max().item()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_order_of_fixed_step_solvers_on_a_time_dependent_field(solver, order):
    assert math.log2(error_after(solver, 20) / error_after(solver, 40)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
def test_adaptive_solvers_keep_their_tolerance(solver):
    """A hundred times less tolerance is at least ten times less error, in no more steps than needed."""
    z = torch.tensor([[1.0, -2.0]])
    errors, evaluations = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        seen = []

        def counted(t, z, seen=seen):
            seen.append(float(t))
            return growing(t, z)

        end = integrate(counted, z, config=OdeConfig(solver, tolerance=tolerance))
        errors.append((end - z / math.e).abs().max().item())
        evaluations.append(len(seen))
    assert errors[1] < errors[0] / 10
    assert errors[2] < 1e-5
    assert evaluations == sorted(evaluations)
    assert evaluations[-1] < 400


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gaussian_is_transported_to_its_target(solver):
    """The straight path from N(0, 1) to N(m, s^2) has u_t(z) = m + (t (s^2 + 1) - 1) / v_t (z - t m) with
    v_t = t^2 s^2 + (1 - t)^2, and carries z_0 to m + s z_0."""
    m, s = 3.0, 0.5

    def field(t, z):
        variance = t**2 * s**2 + (1 - t) ** 2
        return m + (t * (s**2 + 1) - 1) / variance * (z - t * m)

    z_0 = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    z_1 = integrate(field, z_0, config=OdeConfig(solver, steps=400))
    torch.testing.assert_close(z_1, m + s * z_0, atol=2e-2 if solver == "euler" else 1e-3, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_backwards_undoes_forwards(solver):
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    config = OdeConfig(solver, steps=200)
    there = integrate(growing, z, config=config)
    back = integrate(growing, there, start=1.0, end=0.0, config=config)
    torch.testing.assert_close(back, z, atol=1e-1 if solver == "euler" else 1e-4, rtol=0)
    assert (there - z).abs().max() > 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_time_never_leaves_the_interval(solver):
    seen = []

    def field(t, z):
        seen.append(float(t))
        return z * t

    for start, end in ((0.0, 1.0), (1.0, 0.0)):
        integrate(field, torch.ones(2, 2), start=start, end=end, config=OdeConfig(solver, steps=5))
    assert min(seen) >= -1e-6
    assert max(seen) <= 1 + 1e-6


def test_fixed_steps_do_not_couple_the_cells_of_a_batch():
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    together = integrate(growing, z, config=OdeConfig("midpoint", 7))
    alone = integrate(growing, z[:1], config=OdeConfig("midpoint", 7))
    torch.testing.assert_close(together[:1], alone, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"solver": "rk4"}, r"unknown solver 'rk4'.*midpoint"),
        ({"steps": 0}, "steps"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"guide_from": 0.6, "guide_to": 0.5}, r"between two times .* not from 0.6 to 0.5"),
        ({"guide_to": 1.5}, "between two times"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        OdeConfig(**bad)
