"""What the figures must say of generators whose faults are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from cfgen_scale.evaluation import EvaluationError, EvaluationSettings, evaluate
from cfgen_scale.evaluation.comparison import pair_up

Metrics = dict[str, Any]
SETTINGS = EvaluationSettings(n_genes=120, n_components=10, repeats=2)


def compare(train: AnnData | None, test: AnnData, *generated: AnnData, **options: Any) -> Metrics:
    options = {"label": "cell_type", "seeds": (0, 1), "settings": SETTINGS} | options
    return evaluate(train, test, generated, **options)


def neutral(metrics: Metrics, kind: str = "conditional_cell_weighted") -> dict[str, float]:
    return metrics["protocols"]["neutral"][kind]["w2"]


def status(metrics: Metrics, subject: str) -> str:
    return next(v["status"] for v in metrics["verdicts"] if v["subject"] == subject)


@pytest.fixture(scope="module")
def perfect(train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData]) -> Metrics:
    """Cells drawn anew from the population that the real ones come from."""
    return compare(train, test_cells, simulate(2), simulate(3))


@pytest.mark.parametrize("protocol", ["neutral", "centred", "legacy"])
@pytest.mark.parametrize("kind", ["conditional", "conditional_cell_weighted", "unconditional"])
def test_a_perfect_generator_reaches_the_floor(perfect: Metrics, protocol: str, kind: str) -> None:
    assert perfect["protocols"][protocol][kind]["w2"]["ratio"] == pytest.approx(1, abs=0.1)


def test_a_perfect_generator_is_judged_good(perfect: Metrics) -> None:
    assert {verdict["status"] for verdict in perfect["verdicts"]} == {"good"}
    assert perfect["variance_ratio"]["cell_weighted"]["value"] == pytest.approx(1, abs=0.15)
    assert perfect["two_sample_auc"]["logistic"]["value"] == pytest.approx(0.5, abs=0.1)


def test_class_averages_are_of_the_classes(perfect: Metrics) -> None:
    sizes = perfect["classes"]["test_cells"]
    by_class = {name: of["w2"]["value"] for name, of in perfect["protocols"]["neutral"]["per_class"].items()}
    assert neutral(perfect, "conditional")["value"] == pytest.approx(np.mean(list(by_class.values())))
    weighted = np.average([by_class[name] for name in sizes], weights=list(sizes.values()))
    assert neutral(perfect)["value"] == pytest.approx(weighted)


def test_shuffled_labels_are_seen_by_conditional_distances_only(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData], perfect: Metrics
) -> None:
    shuffled = simulate(2)
    shuffled.obs["cell_type"] = np.random.default_rng(0).permutation(shuffled.obs["cell_type"])
    metrics = compare(train, test_cells, shuffled, seeds=(0,))
    assert neutral(metrics)["value"] > 1.5 * neutral(perfect)["value"]
    assert neutral(metrics, "unconditional")["ratio"] == pytest.approx(1, abs=0.1)
    assert status(metrics, "Distance to held-out cells") == "poor"


def test_cells_at_the_mean_of_their_class_are_collapsed(
    train: AnnData, test_cells: AnnData, adata_of: Callable[..., AnnData]
) -> None:
    counts, labels = train.X.toarray(), list(train.obs["cell_type"])
    mean = {name: np.rint(3 * counts[[y == name for y in labels]].mean(0)) for name in set(labels)}
    metrics = compare(train, test_cells, adata_of(np.stack([mean[y] for y in labels]), labels), seeds=(0,))
    assert metrics["variance_ratio"]["cell_weighted"]["value"] == pytest.approx(0, abs=1e-9)
    assert status(metrics, "Variation within classes") == "warning"


def test_noise_about_the_mean_of_a_class_does_not_hide_its_collapse(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData]
) -> None:
    metrics = compare(train, test_cells, simulate(2, spread=0.0), seeds=(0,))
    assert metrics["variance_ratio"]["cell_weighted"]["value"] < 0.7
    assert status(metrics, "Variation within classes") == "warning"


def test_classes_too_small_are_skipped_and_named(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData]
) -> None:
    metrics = compare(
        train, test_cells, simulate(2, {"B cells": 80, "NK cells": 80, "Monocytes": 1}), seeds=(0,)
    )
    assert metrics["classes"]["scored"] == ["B cells", "NK cells"]
    assert metrics["classes"]["skipped"] == {"Monocytes": "test cells: 60, fewest in a generated set: 1"}
    assert set(metrics["protocols"]["neutral"]["per_class"]) == {"B cells", "NK cells"}
    assert "Monocytes" in next(v["text"] for v in metrics["verdicts"] if v["subject"] == "Classes left out")


def test_cells_told_no_class_count_in_unconditional_figures_only(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData]
) -> None:
    told = simulate(2)
    some = simulate(2)
    some.obs["cell_type"] = [y if y != "Monocytes" else None for y in told.obs["cell_type"]]
    none = simulate(2)
    none.obs["cell_type"] = None
    of_all, of_some, of_none = (compare(train, test_cells, cells, seeds=(0,)) for cells in (told, some, none))
    for metrics in (of_some, of_none):
        assert neutral(metrics, "unconditional") == neutral(of_all, "unconditional")
    assert of_some["cells"]["generated_not_told"] == [60]
    assert set(of_some["protocols"]["neutral"]["per_class"]) == {"B cells", "NK cells"}
    assert "conditional" not in of_none["protocols"]["neutral"]
    assert of_none["decided_by"]["kind"] == "unconditional"


def test_a_separate_unconditional_set_takes_its_place(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData]
) -> None:
    alone = compare(train, test_cells, simulate(2), seeds=(0,))
    apart = simulate(3)
    del apart.obs["cell_type"]
    beside = compare(train, test_cells, simulate(2), seeds=(0,), unconditional=[apart])
    assert neutral(beside) == neutral(alone)
    swapped = compare(train, test_cells, simulate(3), seeds=(0,))
    assert neutral(beside, "unconditional") == neutral(swapped, "unconditional")


def test_without_training_cells_there_is_no_neutral_protocol_and_no_floor(
    test_cells: AnnData, simulate: Callable[..., AnnData]
) -> None:
    metrics = compare(None, test_cells, simulate(2))
    assert list(metrics["protocols"]) == ["centred", "legacy"]
    w2 = metrics["protocols"]["centred"]["conditional"]["w2"]
    assert w2["value"] > 0
    assert w2["floor"] is None
    assert status(metrics, "Distance to held-out cells") == "warning"


def test_the_order_of_genes_does_not_matter_and_runs_repeat(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData], adata_of: Callable[..., AnnData]
) -> None:
    cells = simulate(2)
    turned = adata_of(cells.X.toarray()[:, ::-1], list(cells.obs["cell_type"]))
    turned.var_names = list(cells.var_names[::-1])
    straight, reordered = (compare(train, test_cells, made, seeds=(0,)) for made in (cells, turned))
    assert straight == reordered


def test_several_sets_are_scored_with_one_seed_each_and_a_single_one_with_all() -> None:
    pairs = [(s.seed, s.generated, s.unconditional) for s in pair_up(2, 2, (5, 6, 7))]
    assert pairs == [(5, 0, 0), (6, 1, 1)]
    pairs = [(s.seed, s.generated, s.unconditional) for s in pair_up(1, 1, (5, 6, 7))]
    assert pairs == [(5, 0, 0), (6, 0, 0), (7, 0, 0)]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ((0, 0, (0,)), "at least one generated set"),
        ((3, 0, (0, 1)), "3 generated sets need one seed each; there are 2"),
        ((3, 2, (0, 1, 2)), "2 unconditional sets for 3 scorings"),
    ],
)
def test_sets_and_seeds_that_do_not_go_together_are_refused(sets: tuple[Any, ...], says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        pair_up(*sets)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"train": {"B cells": 20}}, "the training set has 20 cells; at least 22 are needed"),
        ({"test": {"B cells": 10}}, "the test set has 10 cells; at least 11 are needed"),
        ({"generated": {"B cells": 9}}, "generated set 1, .* has 9 cells; at least 10 are needed"),
    ],
)
def test_too_few_cells_are_refused(
    simulate: Callable[..., AnnData], sizes: dict[str, dict[str, int]], says: str
) -> None:
    enough = {"B cells": 40, "NK cells": 40}
    train, test, generated = (
        simulate(i, sizes.get(name, enough)) for i, name in enumerate(("train", "test", "generated"))
    )
    with pytest.raises(EvaluationError, match=says):
        compare(train, test, generated)


def test_classes_of_other_names_are_refused(
    train: AnnData, test_cells: AnnData, simulate: Callable[..., AnnData]
) -> None:
    renamed = simulate(2)
    renamed.obs["cell_type"] = renamed.obs["cell_type"].str.upper()
    with pytest.raises(EvaluationError, match=r"no class of 'cell_type' is shared: .*'B CELLS'.*'B cells'"):
        compare(train, test_cells, renamed)
