"""What the peers reached, as a Markdown table for each data set and modality."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.peer_scores import FIGURES, Metrics, figures, variance_range

HEADINGS = {
    "conditional": "W2 cond.",
    "weighted": "W2 cell-w.",
    "unconditional": "W2 uncond.",
    "centred": "W2 centred",
    "mmd_unbiased": "MMD² unb.",
    "auc": "AUC",
    "zeros_ks": "zeros KS",
    "variance": "variance",
    "markers": "markers r",
}
# what is given with its ratio to the floor
RATIOS = ("conditional", "weighted", "unconditional", "centred")
FORMS = dict.fromkeys(RATIOS, ".2f") | {"mmd_unbiased": ".4f", "variance": ".2f"}
NONE = "–"


@dataclass(frozen=True)
class Line:
    """A model of the table: its metrics, and what run.json says of each seed; none of a set given."""

    title: str
    metrics: Metrics
    runs: Sequence[dict[str, Any]] = ()


def markdown(lines: Sequence[Line]) -> str:
    """A row for the real cells of the floor, and one for each of ``lines``, which have a floor in common."""
    head = ["", *HEADINGS.values(), "training", "cells/s"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    rows.append(["real training cells", *_floor(lines[0].metrics), NONE, NONE])
    rows += [[line.title, *_values(line.metrics), *_speed(line.runs)] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def caption(dataset: str, modality: str, metrics: Metrics) -> str:
    """What a table is about."""
    cells, scored = metrics["cells"], metrics["classes"]["scored"]
    return (
        f"**{dataset}, {modality}**: {cells['train']:,} training and {cells['test']:,} test cells, "
        f"{metrics['genes']:,} {metrics['features']}, {len(scored)} classes; mean ± sd of seeds "
        f"{', '.join(map(str, metrics['seeds']))}, distances with their ratio to the floor"
    )


def _values(metrics: Metrics) -> list[str]:
    found, cells = figures(metrics), []
    for name in FIGURES:
        figure, form = found[name], FORMS.get(name, ".3f")
        text = _number(figure["value"], form)
        if figure["spread"] is not None:
            text += f" ± {figure['spread']:{form}}"
        if name in RATIOS and figure["ratio"] is not None:
            text += f" ({figure['ratio']:.2f} ×)"
        cells.append(text + (_range(metrics, "value") if name == "variance" else ""))
    return cells


def _floor(metrics: Metrics) -> list[str]:
    found = figures(metrics)
    texts = {name: _number(found[name]["floor"], FORMS.get(name, ".3f")) for name in FIGURES}
    texts["variance"] += _range(metrics, "floor")
    return list(texts.values())


def _range(metrics: Metrics, of: str) -> str:
    between = variance_range(metrics, of)
    return "" if between is None else f" [{between[0]:.2f}, {between[1]:.2f}]"


def _speed(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Seconds and epochs of a training, cells generated a second: means over the seeds."""
    if not runs:
        return [NONE, NONE]
    seconds, epochs = (sum(run[key] for run in runs) / len(runs) for key in ("training_seconds", "epochs"))
    rate = sum(run["generated_cells"] for run in runs) / sum(run["generation_seconds"] for run in runs)
    trained = f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
    return [f"{trained}, {epochs:.0f} epochs" if epochs else trained, f"{rate:,.0f}"]


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else f"{value:{form}}"
