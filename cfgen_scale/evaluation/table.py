"""The figures of a comparison as rows, for the report and for the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .distances import DISTANCES
from .protocols import PROTOCOLS
from .verdicts import COLLAPSE_RATIO

Figure = dict[str, float | None]
KINDS = {
    "conditional_cell_weighted": "conditional, mean over cells",
    "conditional": "conditional, mean over classes",
    "unconditional": "unconditional",
}
DISTANCE_NAMES = {"w2": "W2", "mmd2": "MMD²", "mmd2_unbiased": "MMD² unbiased"}
MANIFOLD_NAMES = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "one_neighbour_accuracy": "1-NN accuracy",
    "one_neighbour_accuracy_of_generated": "1-NN accuracy, of generated cells",
    "one_neighbour_accuracy_of_real": "1-NN accuracy, of real cells",
}
# how to write a number of at least so much
FORMS = ((1000, ",.0f"), (100, ".1f"), (1, ".2f"), (0.01, ".3f"), (0, ".4f"))
COLUMNS = ("generated", "± sd", "floor", "± sd", "ratio")


@dataclass(frozen=True)
class Row:
    """One distance of one protocol and kind, as text; ``cells`` are those of COLUMNS.

    ``below_floor`` warns of a distance clearly below its floor; not in the legacy protocol, whose offset is
    larger for real cells.
    """

    protocol: str
    kind: str
    distance: str
    cells: tuple[str, ...]
    below_floor: bool


def distance_rows(metrics: dict[str, Any]) -> Iterator[Row]:
    """All distances, protocol by protocol, the deciding protocol first."""
    for protocol in (name for name in PROTOCOLS if name in metrics["protocols"]):
        kinds = metrics["protocols"][protocol]
        for kind in (name for name in KINDS if name in kinds):
            for distance in DISTANCES:
                figure = kinds[kind][distance]
                if distance == "mmd2_unbiased":  # its floor is 0 but for noise: a ratio to it says nothing
                    figure = figure | {"ratio": None}
                ratio = figure["ratio"]
                below = protocol != "legacy" and ratio is not None and ratio < COLLAPSE_RATIO
                yield Row(protocol, KINDS[kind], DISTANCE_NAMES[distance], figure_cells(figure), below)


def other_rows(metrics: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of what is no distance: manifolds, classifiers, variance, markers, zeros, depth."""
    for key, name in MANIFOLD_NAMES.items():
        yield name, metrics["manifolds"][key]
    yield "AUC, logistic", metrics["two_sample_auc"]["logistic"]
    yield "AUC, 15 nearest neighbours", metrics["two_sample_auc"]["nearest_neighbours"]
    yield "variance within classes, over real", metrics["variance_ratio"]["cell_weighted"]
    if "markers" in metrics:
        yield "markers: correlation of class means", metrics["markers"]["cell_weighted"]
    yield "zeros per cell, KS", metrics["moments"]["cell_zero_share_ks"]
    yield "library sizes, KS", metrics["moments"]["library_size_ks"]


def figure_cells(figure: Figure) -> tuple[str, ...]:
    """Value, spread, floor, its spread, and ratio as text."""
    keys = ("value", "spread", "floor", "floor_spread")
    ratio = figure["ratio"]
    return (*(number(figure[key]) for key in keys), "–" if ratio is None else f"{ratio:.2f}")


def number(value: float | None) -> str:
    """A number with about three digits that count; a dash for None."""
    if value is None:
        return "–"
    size = abs(value)
    form = next((form for least, form in FORMS if size >= least), FORMS[-1][1])
    return format(value, form)


def summary_table(metrics: dict[str, Any]) -> str:
    """The distances, other figures and verdicts of a comparison as lines of fixed width, for a terminal."""
    header = f"{'protocol':<9}{'kind':<31}{'distance':<15}" + "".join(f"{c:>10}" for c in COLUMNS)
    lines = [header, "-" * len(header)]
    for row in distance_rows(metrics):
        cells = "".join(f"{cell:>10}" for cell in row.cells)
        note = "  below the floor" if row.below_floor else ""
        lines.append(f"{row.protocol:<9}{row.kind:<31}{row.distance:<15}{cells}{note}")
    lines.append("")
    for name, figure in other_rows(metrics):
        lines.append(f"  {name:<53}" + "".join(f"{cell:>10}" for cell in figure_cells(figure)[:4]))
    lines.append("")
    lines += [f"[{v['status']}] {v['subject']}: {v['text']}" for v in metrics["verdicts"]]
    return "\n".join(lines)
