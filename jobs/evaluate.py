"""``cfgen-scale evaluate``: files in, metrics.json and report.html out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

    from cfgen_scale.evaluation import EvaluationSettings

REPORT_FILES = ("metrics.json", "report.html")
PathLike = str | Path


def evaluate_files(
    *,
    generated: Sequence[PathLike],
    label: str,
    out: PathLike,
    data: PathLike | None = None,
    train: PathLike | None = None,
    test: PathLike | None = None,
    unconditional: Sequence[PathLike] = (),
    seeds: Sequence[int] = (0, 1, 2),
    settings: EvaluationSettings | None = None,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare generated atlases with held-out real cells and write the report into ``out``.

    generated      .h5ad or .zarr AnnData with raw counts in X; several are scored with one seed each
    data           a prepared atlas, whose training and test cells are taken; or instead
    train, test    files; without ``train`` there is no neutral protocol and no floor
    unconditional  atlases for the unconditional distances in place of the generated ones
    on_step        hears what is being done; by default it is written to standard error

    Returns the metrics (``cfgen_scale.evaluation.evaluate``). Raises ValueError or FileNotFoundError, naming
    the files, before any work where the cells cannot be compared; ``out`` is then not touched.
    """
    from cfgen_scale.evaluation import EvaluationError, evaluate, write_report

    on_step = on_step or _say
    require_one_source(data, train, test)
    sources = _sources(data, train, test, generated, unconditional, label)
    require_directory(Path(out), sources)
    require_present([*generated, *unconditional, *(path for path in (data, train, test) if path)])
    on_step("reading cells")
    train_cells, test_cells = real_cells(data, train, test)
    made, apart = [read_atlas(path) for path in generated], [read_atlas(path) for path in unconditional]
    try:
        metrics = evaluate(
            train_cells,
            test_cells,
            made,
            label=label,
            unconditional=apart,
            seeds=seeds,
            settings=settings,
            on_step=on_step,
        )
    except EvaluationError as error:
        sets = [("generated", generated), ("unconditional", unconditional)]
        named = [f"{kind} set {i + 1}: {path}" for kind, paths in sets for i, path in enumerate(paths)]
        given = [("training", train or data), ("test", test or data)]
        real = [f"{kind} set: {path}" for kind, path in given if path]
        raise EvaluationError(f"{error} ({'; '.join(real + named)})") from error
    metrics["sources"] = sources
    on_step("drawing the report")
    report = write_report(metrics, train_cells, test_cells, made, out, label)
    on_step(f"written: {report}")
    return metrics


def real_cells(
    data: PathLike | None, train: PathLike | None, test: PathLike | None
) -> tuple[AnnData | None, AnnData]:
    """Training cells (None: none were given) and test cells, from a prepared atlas or from files."""
    if data is None:
        assert test is not None, "require_one_source lets no other case through"
        return None if train is None else read_atlas(train), read_atlas(test)
    from loaders.prepared import Prepared

    prepared = Prepared.open(Path(data))
    if len(prepared.rows("test")) == 0:
        raise ValueError(
            f"{data} has no test cells, so there is nothing held out to compare with. Prepare it with a test "
            "fraction or a test file, or give --train and --test files."
        )
    return prepared.to_anndata("train"), prepared.to_anndata("test")


def read_atlas(path: PathLike) -> AnnData:
    """An AnnData from a .h5ad file or a .zarr directory. Raises ValueError for anything else."""
    import anndata

    suffix = Path(path).suffix
    if suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"{path} ends in {suffix!r}: atlases are .h5ad files or .zarr directories.")
    try:
        return anndata.read_h5ad(path) if suffix == ".h5ad" else anndata.read_zarr(path)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an AnnData: {error} Is it complete?") from error


def require_one_source(data: PathLike | None, train: PathLike | None, test: PathLike | None) -> None:
    """Real cells come from a prepared atlas or from files, never from both. Raises ValueError."""
    if data is not None and (train is not None or test is not None):
        raise ValueError("give real cells once: either --data, or --test with or without --train.")
    if data is None and test is None:
        raise ValueError(
            "no held-out real cells were given: use --data PREPARED, or --train FILE --test FILE."
        )


def require_present(paths: Sequence[PathLike]) -> None:
    """Raise FileNotFoundError naming the first path that is not there."""
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist.")


def _sources(
    data: PathLike | None,
    train: PathLike | None,
    test: PathLike | None,
    generated: Sequence[PathLike],
    unconditional: Sequence[PathLike],
    label: str,
) -> dict[str, Any]:
    """Which files a report is about, as JSON."""
    real = {name: str(path) for name, path in (("data", data), ("train", train), ("test", test)) if path}
    made = {"generated": [str(p) for p in generated], "unconditional": [str(p) for p in unconditional]}
    return {**real, **made, "label": label}


def require_directory(out: Path, sources: Mapping[str, Any]) -> None:
    """The report goes into a new directory, or takes the place of an earlier report of the same cells.

    Raises FileExistsError for a file, a directory of something else, or a report of other cells.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; the report needs a directory. Give another --out.")
    others = sorted(p.name for p in out.iterdir() if p.name not in REPORT_FILES and p.suffix != ".aside")
    if others:
        raise FileExistsError(f"{out} holds other files ({others[0]}, ...). Give another --out.")
    if (out / "metrics.json").exists():
        found = json.loads((out / "metrics.json").read_text()).get("sources")
        if found != sources:
            raise FileExistsError(f"{out} is the report of other cells ({found}). Give another --out.")


def _say(message: str) -> None:
    print(f"evaluate: {message}", file=sys.stderr, flush=True)
