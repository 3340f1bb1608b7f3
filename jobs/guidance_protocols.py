"""``evaluate intersection`` and ``evaluate guidance``: a model and real cells in, figures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cell_files import HeldOut, PathLike, read_split, require_present
from .evaluate import say
from .model_draws import ModelDraws
from .report_directory import files_of, require_directory, write_protocol
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from anndata import AnnData

    from cfgen_scale.evaluation import EvaluationSettings, IntersectionSettings
    from cfgen_scale.evaluation.cells import CountedCells

INTERSECTION, GUIDANCE = "intersection", "guidance"
PAIRS = 6
BETWEEN = " | "
Pair = tuple[str, str]


def intersection_files(
    *,
    model: PathLike,
    data: PathLike,
    attributes: Sequence[str],
    out: PathLike,
    pairs: Sequence[Pair] = (),
    weights: Sequence[float] = (0, 0.5, 1, 2, 3, 5),
    seeds: Sequence[int] = (0, 1, 2),
    held_out: HeldOut = "test",
    modality: str | None = None,
    settings: IntersectionSettings | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Table 10's experiment for a saved model; writes intersection.json, .csv and .png into ``out``.

    model       directory of the model
    data        prepared atlas: classifiers are fitted on its training cells, ``held_out`` ones compared with
    attributes  two of the model
    pairs       a category of each; without, the PAIRS intersections with most held-out cells

    Returns the document written. Raises ValueError or FileNotFoundError before anything is drawn.
    """
    from cfgen_scale.evaluation import IntersectionSettings, intersection
    from cfgen_scale.evaluation.intersection import largest_pairs

    if len(set(attributes)) != 2:
        raise ValueError(f"an intersection is of two attributes, not of {', '.join(attributes) or 'none'}.")
    settings = settings or IntersectionSettings()
    watch, draw, sources = _begin(model, data, attributes, modality, held_out, out, INTERSECTION, on_step)
    if draw.modality.likelihood != "negative_binomial":
        raise ValueError(
            f"{draw.modality.name!r} holds peaks: the classifiers of intersections look at genes."
        )
    train, real = (_paired(read_split(data, split, modality), draw) for split in ("train", held_out))

    def draw_pair(pair: Pair, first: float, second: float, cells: int, seed: int) -> Any:
        return draw([pair] * cells, (first, second), seed)

    chosen = list(pairs) or largest_pairs(real, PAIRS)
    found = intersection(
        draw_pair, train, real, chosen, weights=weights, seeds=seeds, settings=settings, on_step=watch
    )
    document = found | {
        "sources": sources,
        "attributes": list(attributes),
        "growing": settings.growing,
        "settings": asdict(settings),
        "seconds": watch.seconds(),
    }
    from cfgen_scale.evaluation.protocol_figures import intersection_figure

    write_protocol(
        Path(out), INTERSECTION, document, intersection_rows(document), intersection_figure(document)
    )
    return document


def intersection_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for the real cells of each pair, and one for each weight."""
    rows = []
    for of_pair in document["pairs"]:
        names = dict(zip(document["attributes"], of_pair["pair"], strict=True))
        real = of_pair["real"]
        shown = {
            "probability_first": real["probability_first"],
            "probability_second": real["probability_second"],
        }
        rows.append(names | {"cells": "real, held out", "weight": ""} | shown | {"variance_ratio": 1.0})
        rows += [
            names
            | {"cells": "generated", "weight": made["weight"]}
            | {name: made[name] for name in (*shown, "variance_ratio")}
            for made in of_pair["generated"]
        ]
    return rows


def intersection_table(document: dict[str, Any]) -> str:
    """The pairs as lines of fixed width, for a terminal."""
    lines = [f"{'pair':<44}{'cells':<16}{'weight':>7}{'p(first)':>10}{'p(second)':>11}{'variance':>10}"]
    first, second = document["attributes"]
    for row in intersection_rows(document):
        pair = f"{row[first]} x {row[second]}" if row["weight"] == "" else ""
        lines.append(
            f"{pair:<44}{row['cells']:<16}{row['weight']:>7}{row['probability_first']:>10.2f}"
            f"{row['probability_second']:>11.2f}{row['variance_ratio']:>10.2f}"
        )
    reached = sum(of_pair["reached"] is not None for of_pair in document["pairs"])
    lines.append(
        f"reached by some weight (both probabilities at least the real ones', variance within 20 %): "
        f"{reached} of {len(document['pairs'])} pairs"
    )
    return "\n".join(lines)


def guidance_files(
    *,
    model: PathLike,
    data: PathLike,
    attributes: Sequence[str],
    out: PathLike,
    weights: Sequence[float] = (0, 0.5, 1, 1.5, 2, 3),
    seeds: Sequence[int] = (0, 1, 2),
    held_out: HeldOut = "test",
    modality: str | None = None,
    settings: EvaluationSettings | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Neutral distances over all combinations of ``weights`` of the attributes (Fig. A14).

    With several attributes a class is their intersection. Writes guidance.json, .csv and .png into ``out``
    and returns the document. Raises ValueError or FileNotFoundError before anything is drawn.
    """
    from cfgen_scale.evaluation import EvaluationSettings, guidance_grid

    watch, draw, sources = _begin(model, data, attributes, modality, held_out, out, GUIDANCE, on_step)
    settings = settings or EvaluationSettings(likelihood=draw.modality.likelihood)
    train, real = (_joint(read_split(data, split, modality), draw, settings) for split in ("train", held_out))

    def draw_classes(classes: Sequence[str], combination: Sequence[float], seed: int) -> Any:
        return draw([name.split(BETWEEN) for name in classes], combination, seed)

    rows = guidance_grid(
        draw_classes,
        train,
        real,
        weights=[weights] * len(attributes),
        seeds=seeds,
        settings=settings,
        on_step=watch,
    )
    document = {
        "sources": sources,
        "attributes": list(attributes),
        "seeds": list(seeds),
        "settings": asdict(settings),
        "rows": rows,
        "seconds": watch.seconds(),
    }
    from cfgen_scale.evaluation.protocol_figures import guidance_figure

    write_protocol(Path(out), GUIDANCE, document, guidance_rows(document), guidance_figure(rows, attributes))
    return document


def guidance_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each combination of weights: weights, W2 and MMD with their floors, variance ratio."""
    rows = []
    for row in document["rows"]:
        line: dict[str, Any] = dict(zip(document["attributes"], row["weights"], strict=True))
        for kind in ("conditional", "conditional_cell_weighted", "unconditional"):
            for distance in ("w2", "mmd2_unbiased"):
                figure = row[kind][distance]
                line |= {f"{kind}_{distance}": figure["value"], f"{kind}_{distance}_floor": figure["floor"]}
        rows.append(line | {"variance_ratio": row["variance_ratio"]["value"]})
    return rows


def guidance_table(document: dict[str, Any]) -> str:
    """The grid as lines of fixed width, for a terminal: ratios of W2 to floors, and what MMD says."""
    names = document["attributes"]
    kinds = ("conditional", "conditional_cell_weighted", "unconditional")
    head = "".join(f"{name[:14]:>16}" for name in names)
    lines = [
        f"{head}{'W2 / floor':>14}{'cell-weighted':>15}{'unconditional':>15}{'MMD² unb.':>11}{'variance':>10}"
    ]
    for row in document["rows"]:
        line = "".join(f"{weight:>16g}" for weight in row["weights"])
        for kind, width in zip(kinds, (14, 15, 15), strict=True):
            line += f"{row[kind]['w2']['ratio']:>{width}.3f}"
        unbiased = row["conditional_cell_weighted"]["mmd2_unbiased"]["value"]
        lines.append(line + f"{unbiased:>11.4f}{row['variance_ratio']['value']:>10.2f}")
    return "\n".join(lines)


def _begin(
    model: PathLike,
    data: PathLike,
    attributes: Sequence[str],
    modality: str | None,
    held_out: str,
    out: PathLike,
    name: str,
    on_step: Callable[[str], None] | None,
) -> tuple[Stopwatch, ModelDraws, dict[str, Any]]:
    from cfgen_scale.model import CFGen

    require_present(model, data)
    loaded = CFGen.load(model)
    draw = ModelDraws(loaded, attributes, modality)
    sources = {
        "model": str(model),
        "digest": loaded.digest,
        "data": str(data),
        "attributes": list(attributes),
        "modality": draw.modality.name,
        "held_out": held_out,
    }
    require_directory(Path(out), sources, files_of(name))
    watch = Stopwatch(on_step or say)
    watch("reading cells")
    return watch, draw, sources


def _names(cells: AnnData, draw: ModelDraws) -> list[np.ndarray]:
    """The category (n,) str of each attribute of the cells; "" where there is none."""
    return [
        np.array(
            ["" if missing else str(v) for v, missing in zip(cells.obs[a], cells.obs[a].isna(), strict=True)]
        )
        for a in draw.attributes
    ]


def _counts(cells: AnnData, draw: ModelDraws, *, binarise: bool = False) -> CountedCells:
    from cfgen_scale.evaluation.cells import read_cells

    genes = draw.modality.features
    return read_cells(
        cells, name="the prepared atlas", genes=genes, label=None, binarise=binarise, reference="the model"
    )


def _paired(cells: AnnData, draw: ModelDraws) -> Any:
    from cfgen_scale.evaluation.intersection import PairedCells

    return PairedCells(_counts(cells, draw).counts, np.stack(_names(cells, draw), axis=1))


def _joint(cells: AnnData, draw: ModelDraws, settings: EvaluationSettings) -> CountedCells:
    """Cells whose class is the category of the attribute, or of all of them joined; untold if one is."""
    from cfgen_scale.evaluation.cells import UNTOLD, CountedCells

    names = _names(cells, draw)
    joined = [BETWEEN.join(cell) if all(cell) else UNTOLD for cell in zip(*names, strict=True)]
    counts = _counts(cells, draw, binarise=settings.likelihood == "bernoulli").counts
    return CountedCells(counts, np.array(joined))
