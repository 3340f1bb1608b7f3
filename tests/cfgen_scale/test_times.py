"""Times of the path: of the distribution asked for, one in each stratum, functions of the position."""

import pytest
import torch
from scipy import stats

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.times import UNIFORM, TimesConfig, draw_times, quantiles

DRAWS = CounterDraws(0, "a test")
LOGIT_NORMAL = TimesConfig("logit_normal", location=0.5, scale=1.5)
BETA = TimesConfig("beta", alpha=2.0, beta=0.7)
PROBABILITY_OF = {
    "uniform": (UNIFORM, stats.uniform.cdf),
    "logit normal": (LOGIT_NORMAL, lambda t: stats.norm(0.5, 1.5).cdf(torch.logit(torch.tensor(t)))),
    "beta": (BETA, stats.beta(2.0, 0.7).cdf),
}
ALL = pytest.mark.parametrize(("config", "probability"), PROBABILITY_OF.values(), ids=PROBABILITY_OF)


@pytest.mark.parametrize("n", [1, 2, 97, 100])
@ALL
def test_times_are_one_in_each_stratum(config, probability, n):
    times = draw_times(DRAWS, torch.arange(n), n, config)
    assert times.dtype == torch.float32
    of_times = torch.as_tensor(probability(times.double().numpy()))
    assert sorted((of_times * n).long().tolist()) == list(range(n))
    assert n < 3 or (times.sort().values != times).any(), "times are not tied to the order of the cells"


@ALL
def test_a_share_of_the_cells_has_its_share_of_the_times(config, probability):
    mine = torch.arange(1, 30, 3)
    times = draw_times(DRAWS, torch.arange(30), 30, config)
    assert torch.equal(draw_times(DRAWS, mine, 30, config), times[mine])


@pytest.mark.parametrize("config", [UNIFORM, LOGIT_NORMAL, BETA], ids=lambda config: config.distribution)
def test_the_ends_are_times(config):
    ends = quantiles(torch.tensor([0.0, 1.0]), config)
    assert ends.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"distribution": "normal"}, r"unknown distribution of times 'normal'.*logit_normal"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"alpha": -1.0}, "alpha must be positive"),
        ({"beta": float("inf")}, "beta must be positive and finite"),
        ({"location": float("nan")}, "location must be finite"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TimesConfig(**bad)
