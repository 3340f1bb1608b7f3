"""Counts drawn beside PyTorch's and NumPy's draws, and what the decoder's time goes to, on one core.

    python -m tests.benchmarks.drawing [--out FILE]

20,000 genes of which 5 % are expected above 0, from the same float32 means, in rounds that take each
contender in turn; ratios are medians of the rounds' ratios. Ours ends in CSR; the time of the others to make
CSR of their dense draws is not counted. Exits 1 if ours is not 10 x PyTorch's Gamma-Poisson and 5 x NumPy's
best.

The decoder (hidden 512 and 256, latent 50, batch 512) is taken apart: the last product, the softmax, the
drawing, and all else (the layers before, the assembly of the CSR).
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.decoders import NegativeBinomialDecoder
from cfgen_scale.drawing import Distribution, compiled, decoded, draw_counts, draw_counts_on_device
from tests.benchmarks.measure_training import machine
from tests.benchmarks.roofline import FLOAT32, product_peak

GENES, DENSITY = 20_000, 0.05
SIZES = (50, 256, 512, GENES)
TARGETS = {"torch Gamma-Poisson": 10.0, "numpy": 5.0}
NUMPY = ("numpy negative_binomial", "numpy Gamma-Poisson")


def popularity(random: np.random.Generator) -> NDArray[np.float64]:
    """Shares (G,) of genes in all molecules: log-normal, over about four decades."""
    share = np.exp(random.normal(0.0, 2.0, GENES))
    return share / share.sum()


def expected_density(mean: NDArray[Any], theta: NDArray[Any]) -> float:
    return float(-np.expm1(-theta * np.log1p(mean / theta)).mean())


def library(share: NDArray[Any], theta: NDArray[Any]) -> float:
    """The library size at which DENSITY of the counts are above 0, by bisection of its logarithm."""
    low, high = math.log(10), math.log(1e6)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if expected_density(share * math.exp(middle), theta) < DENSITY else (low, middle)
        )
    return math.exp(low)


def settings(cells: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means (cells, G) float32, theta (G,) float32 and keys (cells,)."""
    random = np.random.default_rng(0)
    share, theta = popularity(random), np.exp(random.normal(0.0, 1.0, GENES))
    of_cells = share * np.exp(random.normal(0.0, 0.3, (cells, GENES)))
    of_cells *= library(share, theta) / of_cells.sum(1, keepdims=True)
    keys = CounterDraws(0, "a benchmark").bits("keys", torch.arange(cells))
    return torch.from_numpy(of_cells).float(), torch.from_numpy(theta).float(), keys


def contenders(means: torch.Tensor, theta: torch.Tensor, keys: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Each draws the counts of the same means once; those of others are dense."""
    random, draws = np.random.default_rng(1), torch.Generator().manual_seed(1)
    distribution = Distribution("negative_binomial", theta.double().numpy()[None])
    of_cells = theta.expand_as(means).contiguous()
    n, wide = theta.numpy(), means.numpy()
    return {
        "ours": lambda: draw_counts(wide, keys.numpy().view(np.uint64), distribution),
        "ours in PyTorch's operations": lambda: draw_counts_on_device(means, keys, distribution),
        "torch Gamma-Poisson": lambda: torch.poisson(
            torch._standard_gamma(of_cells, generator=draws) * (means / theta), generator=draws
        ),
        "numpy negative_binomial": lambda: random.negative_binomial(n, n / (n + wide)),
        "numpy Gamma-Poisson": lambda: random.poisson(random.gamma(n, wide / n)),
    }


def seconds_of(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def rounds_of(acts: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, after one round that is not counted."""
    taken = [{name: seconds_of(act) for name, act in acts.items()} for _ in range(rounds + 1)]
    return {name: [one[name] for one in taken[1:]] for name in acts}


def drawing_figures(cells: int, rounds: int) -> dict[str, Any]:
    """Cells a second of each contender, and ours over each."""
    means, theta, keys = settings(cells)
    acts = contenders(means, theta, keys)
    counts: csr_matrix = acts["ours"]()
    taken = rounds_of(acts, rounds)
    ratios = {name: median(b / a for a, b in zip(taken["ours"], taken[name], strict=True)) for name in taken}
    ratios["numpy"] = min(ratios[name] for name in NUMPY)
    return {
        "density": counts.nnz / (cells * GENES),
        "cells_per_second": {name: cells / median(times) for name, times in taken.items()},
        "ours_over": ratios,
        "nanoseconds_per_gene": 1e9 * median(taken["ours"]) / (cells * GENES),
        "seconds": taken,
    }


# ---------------------------------------------------------------------- the decoder


@njit(nogil=True)
def softmax_rows(products: Any, bias: Any, out: Any) -> float:
    total = 0.0
    for i in range(len(products)):
        total += compiled.shares(products[i], bias, out)
    return total


def decoder_of(share: NDArray[Any], theta: NDArray[Any]) -> NegativeBinomialDecoder:
    """One with the genes' popularity as the bias, as training begins."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bias = torch.from_numpy(np.log(share)).float()
        made = NegativeBinomialDecoder(SIZES, bias=bias, n_levels=None, theta=1.0)
    with torch.no_grad():
        made.log_theta.copy_(torch.from_numpy(theta).log())
    return made.eval()


def decoder_figures(cells: int, rounds: int) -> dict[str, Any]:
    """Seconds of the decoder's parts, each measured alone, beside the whole."""
    random = np.random.default_rng(0)
    share, theta = popularity(random), np.exp(random.normal(0.0, 1.0, GENES))
    decoder = decoder_of(share, theta)
    z, keys = torch.randn(cells, SIZES[0]), CounterDraws(0, "a benchmark").bits("keys", torch.arange(cells))
    log_l = torch.full((cells,), math.log(library(share, theta)))
    hidden, last = torch.randn(cells, SIZES[-2]), decoder.network.layers[-1]
    weight, bias = last.weight.detach().T, last.bias.detach().numpy()
    product, out = torch.empty(decoded.ROWS, GENES), np.empty(GENES, np.float32)
    with torch.no_grad():
        means = decoder(z, log_l, None)[0].exp().numpy()
    distribution = Distribution("negative_binomial", theta[None])

    def multiply() -> None:
        for rows in hidden.split(decoded.ROWS):
            torch.mm(rows, weight, out=product[: len(rows)])

    def softmax() -> None:
        for rows in hidden.split(decoded.ROWS):
            softmax_rows(product.numpy()[: len(rows)], bias, out)

    def plain() -> None:
        log_mean, log_theta = decoder(z, log_l, None)
        rate = torch._standard_gamma(log_theta.exp().expand_as(log_mean).contiguous())
        csr_matrix(torch.poisson(rate * (log_mean - log_theta).exp()).to(torch.int32).numpy())

    with torch.no_grad():
        taken = rounds_of(
            {
                "whole": lambda: decoder.sample(z, log_l, None, keys),
                "product": multiply,
                "softmax": softmax,
                "drawing": lambda: draw_counts(means, keys.numpy().view(np.uint64), distribution),
            },
            rounds,
        )
        plainly = rounds_of({"plain": plain}, 2)["plain"]
    middle = {name: median(times) for name, times in taken.items()}
    flops = 2 * cells * SIZES[-2] * GENES
    peak = product_peak(FLOAT32, torch.device("cpu"), 2_048)
    return {
        "cells_per_second": cells / middle["whole"],
        "plain_cells_per_second": cells / median(plainly),
        "shares": {name: middle[name] / middle["whole"] for name in ("product", "softmax", "drawing")},
        "product_flops": flops / middle["product"],
        "peak_flops": peak,
        "share_of_peak": flops / middle["whole"] / peak,
        "seconds": taken,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The document, for people."""
    drawing, decoder = found["drawing"], found["decoder"]
    said = [
        f"{found['machine']}; one thread; {GENES:,} genes, {drawing['density']:.1%} of the counts above 0",
        "",
    ]
    said.append(f"{'from means to counts':<32}{'cells/s':>10}{'ours is x':>11}")
    for name, rate in drawing["cells_per_second"].items():
        said.append(f"{name:<32}{rate:>10,.0f}{drawing['ours_over'][name]:>11.1f}")
    said += [f"ours: {drawing['nanoseconds_per_gene']:.2f} ns a gene, CSR included", ""]
    said.append(
        f"decoder to CSR: {decoder['cells_per_second']:,.0f} cells/s (in plain PyTorch "
        f"{decoder['plain_cells_per_second']:,.0f}), {decoder['share_of_peak']:.0%} of what products reach, "
        f"{decoder['peak_flops'] / 1e9:,.0f} GFLOP/s; its last alone {decoder['product_flops'] / 1e9:,.0f}"
    )
    shares = decoder["shares"]
    parts = [f"{name} {share:.0%}" for name, share in shares.items()]
    return [*said, ", ".join([*parts, f"all else {1 - sum(shares.values()):.0%}"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write all figures there, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "machine": machine(),
        "drawing": drawing_figures(options.cells, options.rounds),
        "decoder": decoder_figures(options.cells, options.rounds),
    }
    print("\n".join(lines(found)))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    missed = [
        f"{found['drawing']['ours_over'][name]:.1f} x {name}, not {target:.0f} x"
        for name, target in TARGETS.items()
        if found["drawing"]["ours_over"][name] < target
    ]
    if missed:
        raise SystemExit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
