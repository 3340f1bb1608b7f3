"""``evaluate mask`` and ``evaluate imputation``: counts hidden, imputed, and compared (Table 9)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from .cell_files import PathLike, read_atlas, require_present
from .evaluate import say
from .report_directory import files_of, require_directory, write_protocol
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from anndata import AnnData

    from cfgen_scale.evaluation.masking import HiddenCounts
    from cfgen_scale.model import CFGen

IMPUTATION = "imputation"
COMPLETE, MASKING = "complete", "masking"


def mask_file(source: PathLike, out: PathLike, *, share: float = 0.1, seed: int = 0) -> int:
    """Write ``source`` with a ``share`` of its non-zero counts hidden to the .h5ad file ``out``.

    X has the counts left, layers["complete"] all of them, so that a model is prepared and trained on X and
    ``imputation_files`` knows what was hidden. Returns how many counts were. Raises ValueError or
    FileNotFoundError for a source without counts or an unusable share, FileExistsError for an ``out`` that is
    there.
    """
    from anndata import AnnData

    from cfgen_scale.evaluation.masking import mask_counts

    source, out = Path(source), Path(out)
    require_present(source)
    if out.suffix != ".h5ad":
        raise ValueError(f"{out} ends in {out.suffix!r}: masked cells are written as .h5ad.")
    if out.exists():
        raise FileExistsError(f"{out} is there already. Give another --out.")
    cells = read_atlas(source)
    complete = _counts(cells, str(source)).astype(np.int32)
    masked = mask_counts(complete, share, seed=seed)
    made = AnnData(masked, obs=cells.obs, var=cells.var[[]], layers={COMPLETE: complete})
    made.uns[MASKING] = {"share": share, "seed": seed}
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.aside")
    made.write_h5ad(aside)
    aside.replace(out)
    return int(complete.nnz - masked.nnz)


def imputation_files(
    *,
    model: PathLike,
    masked: PathLike,
    out: PathLike,
    sigmas: Sequence[float] = (0.0, 0.05, 0.1, 0.5),
    guidance: float = 1.0,
    max_cells: int = 5000,
    seed: int = 0,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Impute the hidden counts of a file of ``mask_file`` by a model trained on its X, and compare.

    Each of ``sigmas`` is a row, as is the autoencoder alone and each baseline; at most ``max_cells`` cells
    spread over the file. Attributes of the model that obs has are told, with weight ``guidance``. Writes
    imputation.json, .csv and .png into ``out`` and returns the document. Raises ValueError or
    FileNotFoundError before anything is imputed.
    """
    from cfgen_scale.evaluation.imputed import baselines, imputation_figures
    from cfgen_scale.model import CFGen

    require_present(model, masked)
    loaded = CFGen.load(model)
    sources = {"model": str(model), "digest": loaded.digest, "masked": str(masked)}
    require_directory(Path(out), sources, files_of(IMPUTATION))
    watch = Stopwatch(on_step or say)
    watch("reading cells")
    cells, seen, hidden = _hidden(read_atlas(masked), loaded, max_cells)
    kept_share = 1.0 - float(cells.uns[MASKING]["share"])
    methods: list[dict[str, Any]] = []
    for sigma in (None, *sigmas):
        name = "autoencoder alone" if sigma is None else "CFGen"
        watch(name if sigma is None else f"{name}, sigma {sigma:g}")
        values = _imputed(loaded, cells, seen, hidden, sigma, kept_share, guidance, seed)
        methods.append({"method": name, "sigma": sigma, **imputation_figures(values, hidden)})
    watch("baselines")
    for name, values in baselines(seen, hidden, kept_share=kept_share).items():
        methods.append({"method": name, "sigma": None, **imputation_figures(values, hidden)})
    document = {
        "sources": sources,
        "cells": int(seen.shape[0]),
        "hidden": len(hidden),
        "kept_share": kept_share,
        "guidance": guidance,
        "seed": seed,
        "methods": methods,
        "seconds": watch.seconds(),
    }
    from cfgen_scale.evaluation.protocol_figures import imputation_figure

    write_protocol(Path(out), IMPUTATION, document, methods, imputation_figure(methods))
    return document


def imputation_table(document: dict[str, Any]) -> str:
    """The methods as lines of fixed width, for a terminal."""
    lines = [f"{'method':<26}{'sigma':>7}{'L1':>9}{'Pearson':>9}{'of log(1 + x)':>15}"]
    for row in document["methods"]:
        sigma = "" if row["sigma"] is None else f"{row['sigma']:g}"
        figures = (f"{row[name]:.3f}" for name in ("l1", "pearson", "pearson_log1p"))
        l1, pearson, of_logs = figures
        lines.append(f"{row['method']:<26}{sigma:>7}{l1:>9}{pearson:>9}{of_logs:>15}")
    lines.append(f"{document['hidden']:,} hidden counts of {document['cells']:,} cells")
    return "\n".join(lines)


def _hidden(cells: AnnData, model: CFGen, max_cells: int) -> tuple[AnnData, csr_matrix, HiddenCounts]:
    """The cells that are imputed, on the model's features: as AnnData, counts left, and counts hidden."""
    from anndata import AnnData

    from cfgen_scale.evaluation.masking import hidden_counts

    if COMPLETE not in cells.layers or MASKING not in cells.uns:
        raise ValueError(
            "the masked cells have no complete counts beside them. Make them by `evaluate mask`."
        )
    modality = model.schema.modalities[0]
    if len(model.schema.modalities) > 1 or modality.likelihood == "bernoulli":
        raise ValueError("imputation is evaluated on models of one modality of counts.")
    lacking = next((name for name in modality.features if name not in cells.var_names), None)
    if lacking is not None:
        raise ValueError(f"the model has {lacking!r}, which the masked cells lack. Was it trained on others?")
    cells = cells[np.linspace(0, cells.n_obs - 1, min(max_cells, cells.n_obs)).astype(np.int64)]
    cells = cells[:, list(modality.features)]
    # a cell may have counts of rarer features alone, which the model does not know
    cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
    seen = _counts(cells, "the masked cells")
    complete = _counts(AnnData(cells.layers[COMPLETE], var=cells.var), "the complete cells")
    return cells, seen, hidden_counts(seen, complete)


def _imputed(
    model: CFGen,
    cells: AnnData,
    seen: csr_matrix,
    hidden: HiddenCounts,
    sigma: float | None,
    kept_share: float,
    guidance: float,
    seed: int,
) -> Any:
    """Values (m,) at the hidden entries; sigma None: by the autoencoder alone."""
    from cfgen_scale.evaluation.imputed import at_hidden
    from cfgen_scale.imputation import impute

    labels = np.full((cells.n_obs, len(model.schema.covariates)), -1, dtype=np.int64)
    for k, covariate in enumerate(model.schema.covariates):
        if covariate.name in cells.obs:
            labels[:, k] = covariate.codes(cells.obs[covariate.name].tolist())
    batches = impute(
        model,
        [seen],
        labels,
        guidance=[guidance if (column >= 0).any() else 0.0 for column in labels.T],
        sigma=sigma or 0.0,
        kept_share=kept_share,
        through_flow=sigma is not None,
        seed=seed,
    )
    return at_hidden(((rows, means[0]) for rows, means in batches), hidden)


def _counts(cells: AnnData, name: str) -> csr_matrix:
    from cfgen_scale.evaluation.cells import gene_names, read_cells

    return read_cells(cells, name=name, genes=gene_names(cells, name), label=None).counts
