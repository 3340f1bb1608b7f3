"""``cfgen-scale evaluate``: files in, metrics.json and report.html out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cell_files import HeldOut, PathLike, read_atlas, real_cells, require_one_source, require_present
from .report_directory import require_directory
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from cfgen_scale.evaluation import EvaluationSettings

REPORT_FILES = ("metrics.json", "report.html")


def evaluate_files(
    *,
    generated: Sequence[PathLike],
    label: str,
    out: PathLike,
    data: PathLike | None = None,
    train: PathLike | None = None,
    test: PathLike | None = None,
    unconditional: Sequence[PathLike] = (),
    modality: str | None = None,
    held_out: HeldOut = "test",
    seeds: Sequence[int] = (0, 1, 2),
    settings: EvaluationSettings | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare generated atlases with held-out real cells and write the report into ``out``.

    generated      .h5ad or .zarr AnnData, or .h5mu or MuData-Zarr, with raw counts in X; several are scored
                   with one seed each
    data           a prepared atlas, whose training and held-out cells are taken; or instead
    train, test    files; without ``train`` there is no neutral protocol and no floor
    unconditional  atlases for the unconditional distances in place of the generated ones
    modality       the one to compare, where there are several; what its counts are, settings say
    held_out       split of ``data`` that is compared with: settings are chosen on validation cells
    on_step        hears what is being done; by default it is written to standard error

    Returns the metrics (``cfgen_scale.evaluation.evaluate``) with the seconds each part took. Raises
    ValueError or FileNotFoundError, naming the files, before any work where the cells cannot be compared;
    ``out`` is then not touched.
    """
    from cfgen_scale.evaluation import EvaluationError, evaluate, write_report

    watch = Stopwatch(on_step or say)
    require_one_source(data, train, test)
    sources = _sources(data, train, test, generated, unconditional, label, modality, held_out)
    require_directory(Path(out), sources, REPORT_FILES)
    require_present(*generated, *unconditional, data, train, test)
    watch("reading cells")
    train_cells, test_cells = real_cells(data, train, test, modality=modality, held_out=held_out)
    made, apart = ([read_atlas(path, modality) for path in paths] for paths in (generated, unconditional))
    try:
        metrics = evaluate(
            train_cells,
            test_cells,
            made,
            label=label,
            unconditional=apart,
            seeds=seeds,
            settings=settings,
            on_step=watch,
        )
    except EvaluationError as error:
        sets = [("generated", generated), ("unconditional", unconditional)]
        named = [f"{kind} set {i + 1}: {path}" for kind, paths in sets for i, path in enumerate(paths)]
        given = [("training", train or data), ("test", test or data)]
        real = [f"{kind} set: {path}" for kind, path in given if path]
        raise EvaluationError(f"{error} ({'; '.join(real + named)})") from error
    metrics |= {"sources": sources, "seconds": watch.seconds()}
    watch("drawing the report")
    report = write_report(metrics, train_cells, test_cells, made, out, label)
    watch(f"written: {report}")
    return metrics


def _sources(
    data: PathLike | None,
    train: PathLike | None,
    test: PathLike | None,
    generated: Sequence[PathLike],
    unconditional: Sequence[PathLike],
    label: str,
    modality: str | None,
    held_out: str,
) -> dict[str, Any]:
    """Which files a report is about, as JSON."""
    real = {name: str(path) for name, path in (("data", data), ("train", train), ("test", test)) if path}
    made = {"generated": [str(p) for p in generated], "unconditional": [str(p) for p in unconditional]}
    chosen = {} if modality is None else {"modality": modality}
    if data is not None and held_out != "test":
        chosen["held_out"] = held_out
    return {**real, **made, **chosen, "label": label}


def say(message: str) -> None:
    """A line on standard error."""
    print(f"evaluate: {message}", file=sys.stderr, flush=True)
