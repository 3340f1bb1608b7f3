"""Generated cells of a peer, or of ours, scored by `evaluate`; kept until what was scored changes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata

from cfgen_scale.evaluation import EvaluationSettings, evaluate
from cfgen_scale.files import write_json
from jobs.evaluation.cell_files import read_atlas
from tests.benchmarks.peer_cells import LABEL, LIKELIHOODS, cells_file

LARGE_CLASS = 50
NEUTRAL = ("protocols", "neutral")
# column of the table: where its figure stands in the metrics
FIGURES = {
    "conditional": (*NEUTRAL, "conditional", "w2"),
    "weighted": (*NEUTRAL, "conditional_cell_weighted", "w2"),
    "unconditional": (*NEUTRAL, "unconditional", "w2"),
    "centred": ("protocols", "centred", "conditional", "w2"),
    "mmd_unbiased": (*NEUTRAL, "conditional_cell_weighted", "mmd2_unbiased"),
    "auc": ("two_sample_auc", "logistic"),
    "zeros_ks": ("moments", "cell_zero_share_ks"),
    "variance": ("variance_ratio", "cell_weighted"),
    "markers": ("markers", "cell_weighted"),
}
Metrics = dict[str, Any]


def scores(cells: Path, modality: str, sets: Sequence[Path], seeds: Sequence[int], out: Path) -> Metrics:
    """Metrics of generated ``sets``, one for each of ``seeds`` (or one for all), against the test cells.

    The unconditional distances are of the same cells, whose classes occur as among the training cells.
    ``out`` keeps the metrics; they are made anew where a file was written since.
    """
    files = [cells_file(cells, "train", modality), cells_file(cells, "test", modality), *sets]
    sources = {"seeds": list(seeds), "files": [[str(file), file.stat().st_mtime_ns] for file in files]}
    if out.exists():
        kept: Metrics = json.loads(out.read_text())
        if kept["sources"] == sources:
            return kept
    train, test = (anndata.read_h5ad(file) for file in files[:2])
    made = [read_atlas(path, modality) for path in sets]
    settings = EvaluationSettings(likelihood=LIKELIHOODS[modality])
    metrics = evaluate(train, test, made, label=LABEL, seeds=seeds, settings=settings) | {"sources": sources}
    write_json(out, metrics)
    return metrics


def figures(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    """The columns of the table: value, spread, floor of each; and the variance of the large classes."""
    found = {}
    for name, path in FIGURES.items():
        place: Any = metrics
        for key in path:
            place = place.get(key, {})
        found[name] = place or dict.fromkeys(("value", "spread", "floor", "floor_spread", "ratio"))
    return found


def variance_range(metrics: Metrics, of: str = "value") -> tuple[float, float] | None:
    """Lowest and highest variance over real of the classes with LARGE_CLASS test cells; ``of`` "floor" of
    the real training cells. None where there is no such class."""
    large = [name for name, n in metrics["classes"]["test_cells"].items() if n >= LARGE_CLASS]
    ratios = [metrics["variance_ratio"]["per_class"][name][of] for name in large]
    return (min(ratios), max(ratios)) if ratios else None
