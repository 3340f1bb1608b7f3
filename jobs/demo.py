"""The whole mission once, on real cells that every installation has."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = ("bulk_labels", "phase")
MODEL_NAME, ALIAS = "cfgen-pbmc-demo", "champion"
CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
WORKERS = 2
CELLS = 2_000
TEST_FRACTION = 0.2
# The furthest that a recovered count of the bundled cells lies from an integer is 0.112 (a count of 259).
FURTHEST_FROM_INTEGER = 0.25


def demo(out: str | Path) -> dict[str, Any]:
    """Prepare, train in Ray, register, generate in Ray, evaluate; everything lands in the directory ``out``.

    Run again it finds what is done and goes on from there. Prints where things are and the main figures;
    returns the metrics.
    """
    from cfgen_scale.evaluation import summary_table
    from loaders.preparation.prepare import prepare

    from .cluster import cluster
    from .evaluation.evaluate import evaluate_files
    from .generation.generate import generate_atlas
    from .generation.request import Group, Request
    from .tracking import find_model, tracking_uri
    from .training.train import train

    out = Path(out)
    run, data, atlas, report = out / "run", out / "prepared", out / "atlas.zarr", out / "report"
    _say("1/4 prepare: 700 blood cells with integer counts, split, statistics")
    cells = bundled_pbmc(out / "pbmc.h5ad")
    prepare([cells], data, labels=LABELS, min_cells_per_gene=0, test_fraction=TEST_FRACTION)
    # One cluster for training and generation: starting one takes longer than using it here.
    with cluster(WORKERS):
        _say(f"2/4 train: autoencoder, then flow, in {WORKERS} Ray Train workers")
        train(
            "all",
            data=data,
            run=run,
            config_file=CONFIG,
            workers=WORKERS,
            register_as=MODEL_NAME,
            alias=ALIAS,
        )
        _say(f"3/4 generate: {CELLS:,} cells in {WORKERS} Ray workers")
        model = find_model(f"models:/{MODEL_NAME}@{ALIAS}", uri=tracking_uri(run))
        request = Request((Group(CELLS),))
        generate_atlas(model.path, atlas, request, workers=WORKERS, registered=model.registered)
    _say("4/4 evaluate: generated cells against held-out ones")
    metrics = evaluate_files(generated=[atlas], label=LABELS[0], data=data, out=report)
    _say(summary_table(metrics))
    _say(f"generated atlas  {atlas}")
    _say(f"model            {run / 'model'} (models:/{MODEL_NAME}@{ALIAS} in {tracking_uri(run)})")
    _say(f"report           {report / 'report.html'}")
    return metrics


def bundled_pbmc(path: str | Path) -> Path:
    """Write the PBMC cells that come with scanpy, as raw counts, to the .h5ad file ``path``; returns it.

    700 cells x 765 genes (10x Genomics, 68k PBMC, reduced by scanpy's authors): X CSR int32, obs bulk_labels
    and phase. Nothing is downloaded. A file that is there already is kept.
    """
    import anndata
    import scanpy

    path = Path(path)
    if path.exists():
        return path
    bundled = scanpy.datasets.pbmc68k_reduced()
    cells = anndata.AnnData(
        X=recover_counts(csr_matrix(bundled.raw.X)),
        obs=bundled.obs[list(LABELS)],
        var=bundled.raw.var[[]],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    cells.write_h5ad(aside)
    aside.replace(path)
    return path


def recover_counts(log_normalised: csr_matrix) -> csr_matrix:
    """Integer counts ``(N, G)`` int32 behind values log(1 + c * count), with a c of its own for each cell.

    A cell's smallest non-zero value is taken for a count of 1. Raises ValueError where that does not give
    integers, naming the cell (row) and gene (column) that are furthest off.
    """
    values = np.expm1(log_normalised.data.astype(np.float64))
    row_of: NDArray[np.intp] = np.repeat(np.arange(log_normalised.shape[0]), np.diff(log_normalised.indptr))
    smallest = np.full(log_normalised.shape[0], np.inf)
    np.minimum.at(smallest, row_of, values)
    exact = values / smallest[row_of]
    counts = np.rint(exact)
    deviation = np.abs(exact - counts)
    if deviation.size and deviation.max() > FURTHEST_FROM_INTEGER:
        worst = int(deviation.argmax())
        raise ValueError(
            f"row {row_of[worst]}, column {log_normalised.indices[worst]}: {exact[worst]:.3f} times the "
            "smallest value of its cell is no count. These are not log-normalised counts of one scale a cell."
        )
    return csr_matrix(
        (counts.astype(np.int32), log_normalised.indices, log_normalised.indptr), shape=log_normalised.shape
    )


def _say(text: str) -> None:
    print(text, flush=True)
