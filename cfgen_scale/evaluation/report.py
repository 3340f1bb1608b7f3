"""metrics.json and report.html: one file that explains itself, with every picture inside it."""

import base64
import io
import os
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure

from ..files import write_json
from . import figures
from .cells import CountedCells
from .comparison import Sources, read_sources
from .dispersion import dispersion_figure
from .draws import same_classes, scored_classes
from .embedding import embed
from .palette import STYLE
from .protocols import make_bench
from .settings import EvaluationSettings
from .table import COLUMNS, MANIFOLD_NAMES, distance_rows, figure_cells, number

MAX_CELLS_ON_MAP = 4000
DOTS_PER_INCH = 150
METRICS, REPORT = "metrics.json", "report.html"


def write_report(
    metrics: dict[str, Any],
    train: AnnData | None,
    test: AnnData,
    generated: Sequence[AnnData],
    out_dir: str | Path,
    label: str,
) -> Path:
    """Write ``report.html`` and, last, ``metrics.json`` into ``out_dir``; returns the path of the report.

    The cells are those given to ``evaluate``; the pictures show its first generated set. Files of an earlier
    report are replaced, each by a rename when it is whole.
    """
    settings = EvaluationSettings(**metrics["settings"])
    pictures = draw_pictures(metrics, read_sources(train, test, generated, label=label, settings=settings))
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".{REPORT}.{os.getpid()}.aside"
    aside.write_text(render(metrics, pictures), encoding="utf-8")
    os.replace(aside, out / REPORT)
    write_json(out / METRICS, metrics)
    return out / REPORT


def draw_pictures(metrics: dict[str, Any], sources: Sources) -> dict[str, bytes]:
    """The pictures of the report as PNG, by name, of the first generated set and the first seed."""
    seed, settings = metrics["seeds"][0], EvaluationSettings(**metrics["settings"])
    bench = make_bench(sources.train, sources.test, seed=seed, settings=settings)
    made = sources.generated[0].take(same_classes(sources.generated[0], bench.test, seed=seed))
    real = bench.test
    shown_real, shown_made = _at_most(real, MAX_CELLS_ON_MAP), _at_most(made, MAX_CELLS_ON_MAP)
    space = bench.protocols[0]
    placed = embed(space.place_reference(shown_real), space.place_pool(shown_made), seed=0)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are too many to type
        drawn = {
            "map": figures.map_figure(placed, shown_real.classes, shown_made.classes),
            "mean_variance": figures.mean_variance_figure(real.counts, made.counts),
            "zeros": figures.zeros_figure(real.counts, made.counts),
            "libraries": figures.library_figure(real.counts, made.counts),
        }
        if by_class := dispersion_figure(made, real, scored_classes(made, real)):
            drawn["dispersion"] = by_class
        per_class = metrics["protocols"][space.name].get("per_class")
        if per_class:
            sizes = metrics["classes"]["test_cells"]
            drawn["per_class"] = figures.per_class_figure(per_class, sizes)
            drawn["variance"] = figures.variance_figure(metrics["variance_ratio"]["per_class"], sizes)
        return {name: _png(figure) for name, figure in drawn.items()}


def render(metrics: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """The report as one HTML text that refers to nothing outside itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["whole"] = "{:,}".format
    environment.filters["figure_cells"] = figure_cells
    return environment.get_template(REPORT).render(
        metrics=metrics,
        columns=COLUMNS,
        manifold_names=MANIFOLD_NAMES,
        protocols=[
            (name, list(rows)) for name, rows in groupby(distance_rows(metrics), key=attrgetter("protocol"))
        ],
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
    )


def _at_most(cells: CountedCells, n: int) -> CountedCells:
    """The same cells, or ``n`` of them spread evenly over the order they are in."""
    return cells.take(np.linspace(0, len(cells) - 1, n).astype(np.int64)) if len(cells) > n else cells


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
