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
from .protocol_tables import guidance_rows, intersection_rows
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
