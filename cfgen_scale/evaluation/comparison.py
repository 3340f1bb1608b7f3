"""The whole comparison of generated with held-out cells: what ``metrics.json`` holds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from anndata import AnnData

from .cells import UNTOLD, CountedCells, EvaluationError, gene_names, read_cells
from .classification import MIN_CELLS
from .draws import MIN_CELLS_OF_A_CLASS, same_classes
from .figure_of_merit import merge
from .moments import library_sizes, zero_share
from .protocols import make_bench
from .scoring import Scores, score
from .settings import EvaluationSettings
from .verdicts import decided_by, verdicts

Metrics = dict[str, Any]
PACKAGES = ("cfgen-scale", "numpy", "scipy", "scikit-learn", "POT", "anndata", "scanpy")


@dataclass(frozen=True)
class Sources:
    """All cells of a comparison, checked, on the genes of the test cells."""

    train: CountedCells | None
    test: CountedCells
    generated: tuple[CountedCells, ...]
    unconditional: tuple[CountedCells, ...]


@dataclass(frozen=True)
class Scoring:
    """Which generated (and unconditional) set is scored with which seed."""

    seed: int
    generated: int
    unconditional: int | None


def evaluate(
    train: AnnData | None,
    test: AnnData,
    generated: Sequence[AnnData],
    *,
    label: str,
    unconditional: Sequence[AnnData] = (),
    seeds: Sequence[int] = (0, 1, 2),
    settings: EvaluationSettings | None = None,
    on_step: Callable[[str], None] = lambda message: None,
) -> Metrics:
    """Compare ``generated`` cells with ``test`` cells, both raw counts in X, by the protocols of METHOD 7.

    ``train`` are the cells the model was trained on: they give the neutral basis and the floor; without them
    the centred and legacy protocols remain, without floors. ``label`` is the column of obs with the classes.
    Several generated sets (one a generation seed) are scored with one of ``seeds`` each; a single one with
    every seed, so that its spread is that of the halves and draws alone. ``unconditional`` sets, one or one a
    scoring, take the place of the generated ones in the unconditional distances. ``on_step`` hears what is
    done.

    Returns the content of ``metrics.json``: every figure with its value, spread over seeds and floor (see
    ``figure_of_merit.merge``). Raises EvaluationError before any work where the cells cannot be compared.
    """
    settings = settings or EvaluationSettings()
    scorings = pair_up(len(generated), len(unconditional), seeds)
    on_step("checking counts, genes and labels")
    sources = read_sources(train, test, generated, unconditional, label=label, settings=settings)
    require_enough(sources, settings)
    scores: list[Scores] = []
    floors: list[Scores] = []
    for scoring in scorings:
        made, real = _score_once(scoring, sources, settings, on_step)
        scores.append(made)
        floors += [real] if real is not None else []
    metrics = describe(sources, scorings, label=label, settings=settings) | merge(scores, floors)
    metrics["decided_by"] = decided_by(metrics["protocols"])
    metrics["verdicts"] = [asdict(verdict) for verdict in verdicts(metrics)]
    return metrics


def _score_once(
    scoring: Scoring, sources: Sources, settings: EvaluationSettings, on_step: Callable[[str], None]
) -> tuple[Scores, Scores | None]:
    """Scores of one generated set, and of the real cells of the floor where there are any."""
    seed = scoring.seed
    on_step(f"seed {seed}: variable genes and components of real cells")
    bench = make_bench(sources.train, sources.test, seed=seed, settings=settings)
    apart = None if scoring.unconditional is None else sources.unconditional[scoring.unconditional]
    on_step(f"seed {seed}: generated set {scoring.generated + 1} against {len(bench.test):,} test cells")
    made = score(
        sources.generated[scoring.generated], bench, seed=seed, settings=settings, unconditional=apart
    )
    if bench.floor is None:
        return made, None
    on_step(f"seed {seed}: floor, {len(bench.floor):,} other real cells against the same test cells")
    return made, score(bench.floor, bench, seed=seed, settings=settings)


def pair_up(n_generated: int, n_unconditional: int, seeds: Sequence[int]) -> list[Scoring]:
    """One scoring a seed for a single generated set, otherwise one a set; see ``evaluate``."""
    if n_generated == 0 or len(seeds) == 0:
        raise EvaluationError("give at least one generated set and one seed.")
    if n_generated > len(seeds):
        raise EvaluationError(
            f"{n_generated} generated sets need one seed each; there are {len(seeds)}. Give more seeds."
        )
    n_scorings = len(seeds) if n_generated == 1 else n_generated
    if n_unconditional not in (0, 1, n_scorings):
        raise EvaluationError(
            f"{n_unconditional} unconditional sets for {n_scorings} scorings: give one, or one for each."
        )
    return [
        Scoring(
            seed=seeds[i],
            generated=i if n_generated > 1 else 0,
            unconditional=None if n_unconditional == 0 else min(i, n_unconditional - 1),
        )
        for i in range(n_scorings)
    ]


def read_sources(
    train: AnnData | None,
    test: AnnData,
    generated: Sequence[AnnData],
    unconditional: Sequence[AnnData] = (),
    *,
    label: str,
    settings: EvaluationSettings,
) -> Sources:
    """Check all cells and bring their genes into the order of the test cells. Raises EvaluationError."""
    genes = gene_names(test, "the test set")
    read = partial(read_cells, genes=genes, binarise=settings.likelihood == "bernoulli")
    sources = Sources(
        None if train is None else read(train, name="the training set", label=label),
        read(test, name="the test set", label=label),
        tuple(read(adata, name=f"generated set {i + 1}", label=label) for i, adata in enumerate(generated)),
        tuple(
            read(adata, name=f"unconditional set {i + 1}", label=None)
            for i, adata in enumerate(unconditional)
        ),
    )
    known = set(sources.test.class_names())
    for i, cells in enumerate(sources.generated):
        told = cells.class_names()
        if told and not known & set(told):
            raise EvaluationError(
                f"no class of {label!r} is shared: generated set {i + 1} has {_listed(told)}, "
                f"the test set {_listed(sorted(known))}. Use the same names on both sides."
            )
    return sources


def require_enough(sources: Sources, settings: EvaluationSettings) -> None:
    """Raise EvaluationError where a set has too few cells, or too few genes, to be measured at all."""
    # of peaks one component more is fitted, in case that the first is depth
    least = max(settings.n_components + (2 if settings.of_peaks else 1), MIN_CELLS)
    limits = [("the test set", len(sources.test), least)]
    if sources.train is not None:
        limits.append(("the training set", len(sources.train), 2 * least))
    for i, cells in enumerate(sources.generated):
        matched = len(same_classes(cells, sources.test, seed=0))
        limits.append((f"generated set {i + 1}, as many of each class as the test set,", matched, MIN_CELLS))
    limits += [
        (f"unconditional set {i + 1}", len(cells), MIN_CELLS) for i, cells in enumerate(sources.unconditional)
    ]
    for name, n, needed in limits:
        if n < needed:
            raise EvaluationError(f"{name} has {n} cells; at least {needed} are needed. Give more cells.")
    n_features = sources.test.counts.shape[1]
    usable = n_features - 2 if settings.of_peaks else min(settings.n_genes, n_features)
    if usable < settings.n_components:
        kind = "peaks" if settings.of_peaks else "genes"
        raise EvaluationError(
            f"{usable} {kind} are too few for {settings.n_components} components. Ask for fewer components."
        )


def describe(
    sources: Sources, scorings: Sequence[Scoring], *, label: str, settings: EvaluationSettings
) -> Metrics:
    """What was compared: numbers of cells, classes scored and skipped, settings, versions."""
    test = sources.test
    skipped = skipped_classes(sources)
    return {
        "label": label,
        "features": "peaks" if settings.of_peaks else "genes",
        "cells": {
            "train": None if sources.train is None else len(sources.train),
            "test": len(test),
            "generated": [len(cells) for cells in sources.generated],
            "generated_not_told": [int((cells.classes == UNTOLD).sum()) for cells in sources.generated],
            "unconditional": [len(cells) for cells in sources.unconditional],
        },
        "genes": int(test.counts.shape[1]),
        "classes": {
            "test_cells": {name: len(test.of_class(name)) for name in test.class_names()},
            "scored": [name for name in test.class_names() if name not in skipped],
            "skipped": skipped,
        },
        "test_cells": {
            "cell_zero_share_mean": float(zero_share(test.counts).mean()),
            "library_size_median": float(np.median(library_sizes(test.counts))),
        },
        "seeds": [scoring.seed for scoring in scorings],
        "settings": asdict(settings),
        "versions": {package: version(package) for package in PACKAGES},
    }


def skipped_classes(sources: Sources) -> dict[str, str]:
    """Classes with fewer than 2 test cells, or fewer than 2 cells in some generated set, and why."""
    names = {name for cells in (sources.test, *sources.generated) for name in cells.class_names()}
    skipped = {}
    for name in sorted(names):
        of_test = len(sources.test.of_class(name))
        of_generated = min(len(cells.of_class(name)) for cells in sources.generated)
        if min(of_test, of_generated) < MIN_CELLS_OF_A_CLASS:
            skipped[name] = f"test cells: {of_test}, fewest in a generated set: {of_generated}"
    return skipped


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "none"
