"""The loaders that are compared, each behind one function that gives comparable batches.

The peers are given counts alone; ours hand over labels with them. Where a peer has settings that its
documentation offers, those named here are tried and the fastest is kept.
"""

import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import anndata
import numba
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from tests.benchmarks.loader_stores import (
    ANNBATCH,
    ANNBATCH_IN_PLACE,
    ATLAS,
    IN_PLACE,
    PACKED,
    SOMA,
    SOMA_CACHE,
    SOMA_IN_PLACE,
)

type Settings = dict[str, int]
CSR_PEER, DENSE_PEER, SOMA_PEER = "annbatch", "annbatch to_dense()", "tiledbsoma-ml"
LIMIT = "limit: plain scatter"
LIMIT_BATCHES = 2  # held in memory, and scattered in turn


@dataclass(frozen=True)
class Batch:
    """Counts (B, G), CSR of scipy or torch or dense, of cells at ``places`` (B,) of the loader's store."""

    places: IntArray
    counts: Any


type Batches = Generator[Batch, None, None]


@dataclass(frozen=True)
class Epoch:
    """What a loader is asked for: all cells once, shuffled."""

    root: Path
    store: str
    batch_cells: int
    cores: int
    seed: int


@dataclass(frozen=True)
class Loader:
    """One way to read one store.

    open        opens the store and gives the batches of one epoch; all it does is counted as waiting
    rival       the loader that this one is compared with
    atlas_rows  from a root and store the row of the atlas (N,) that is at each place
    settings    tried in turn before the rounds
    window      cells that come as one burst with those settings: rates are taken over whole bursts
    """

    name: str
    store: str
    form: Literal["CSR", "dense"]
    rival: str
    open: Callable[[Epoch, Settings], Batches]
    atlas_rows: Callable[[Path, str], IntArray]
    settings: tuple[Settings, ...] = ({},)
    window: Callable[[Settings], int] = lambda settings: 1


def annbatch_batches(epoch: Epoch, settings: Settings, *, dense: bool = False) -> Batches:
    """annbatch on its own collection, decoded by zarrs, as its documentation recommends."""
    import annbatch

    pipeline = "zarrs.ZarrsCodecPipeline"
    zarr.config.set({"codec_pipeline.path": pipeline, "threading.max_workers": epoch.cores})
    rng = np.random.default_rng(epoch.seed)
    loader = annbatch.Loader(
        **settings, batch_size=epoch.batch_cells, shuffle=True, rng=rng, to="torch", return_index=True
    ).use_collection(
        annbatch.DatasetCollection(epoch.root / epoch.store, mode="r"),
        load_adata=lambda group: anndata.AnnData(X=anndata.io.sparse_dataset(group["X"])),
    )
    return (Batch(b["index"], b["X"].to_dense() if dense else b["X"]) for b in loader)


def annbatch_rows(root: Path, store: str) -> IntArray:
    import annbatch

    return np.asarray(annbatch.DatasetCollection(root / store, mode="r").obs(["donor"]).index, dtype=np.int64)


def soma_ml_batches(epoch: Epoch, settings: Settings) -> Batches:
    """tiledbsoma-ml, its shuffling and reading ahead as they come."""
    import tiledbsoma
    import tiledbsoma_ml

    experiment = tiledbsoma.Experiment.open(str(epoch.root / epoch.store))
    dataset = tiledbsoma_ml.ExperimentDataset(
        experiment.axis_query("RNA"),
        layer_name="data",
        batch_size=epoch.batch_cells,
        seed=epoch.seed,
        return_sparse_X=True,
        **settings,
    )
    return (
        Batch(obs["soma_joinid"].to_numpy(), X) for X, obs in tiledbsoma_ml.experiment_dataloader(dataset)
    )


def our_batches(
    epoch: Epoch,
    settings: Settings,
    *,
    widened: bool = False,
    dense: bool = False,
    caching: bool = False,
) -> Batches:
    """`CellStream` over what `prepare` made: counts as stored, as float32, or dense in reused buffers; or
    copied to a new cache on their way."""
    from loaders import CellStream, DenseBatches

    cache = None
    if caching:
        cache = epoch.root / "new-cache"
        shutil.rmtree(cache, ignore_errors=True)
    stream = CellStream(
        our_prepared(epoch.root, epoch.store, cache=cache),
        split="all",
        batch_cells=epoch.batch_cells,
        seed=epoch.seed,
        epochs=1,
        threads=epoch.cores,
        dtype=np.float32 if widened else None,
    )
    if dense:
        return (Batch(b.rows, b.counts[0]) for b in DenseBatches(stream))
    return (Batch(b.rows, b.counts[0]) for b in stream)


def our_prepared(root: Path, store: str, cache: Path | None = None) -> Any:
    from loaders import Prepared

    if store == SOMA_CACHE:
        return Prepared.open(root / SOMA_IN_PLACE, cache=root / SOMA_CACHE)
    return Prepared.open(root / store, cache=cache)


def our_rows(root: Path, store: str) -> IntArray:
    rows: IntArray = our_prepared(root, store).source_rows
    return annbatch_rows(root, ANNBATCH)[rows] if store == ANNBATCH_IN_PLACE else rows


def same_rows(root: Path, store: str) -> IntArray:
    return np.arange(zarr.open_group(root / ATLAS, mode="r")["X"].attrs["shape"][0])


def scatter_limit(epoch: Epoch, settings: Settings) -> Batches:
    """The limit of a dense hand-over: CSR batches that lie in memory, written into one buffer, all cores."""
    matrix = anndata.io.sparse_dataset(zarr.open_group(epoch.root / epoch.store, mode="r")["X"])
    n_cells, n_genes = matrix.shape
    buffer = np.empty((epoch.batch_cells, n_genes), dtype=np.float32)
    ready = [matrix[k * epoch.batch_cells : (k + 1) * epoch.batch_cells] for k in range(LIMIT_BATCHES)]

    def scattered() -> Batches:
        for begin in range(0, n_cells, epoch.batch_cells):
            k = begin // epoch.batch_cells % LIMIT_BATCHES
            n = min(ready[k].shape[0], n_cells - begin)
            scatter(ready[k].indptr, ready[k].indices, ready[k].data, buffer[:n])
            yield Batch(np.arange(begin, begin + n), buffer[:n])

    return scattered()


@numba.njit(parallel=True, nogil=True, cache=True)
def scatter(indptr: Any, indices: Any, data: Any, out: Any) -> None:
    """Rows of CSR over the rows of ``out``; each is cleared first, while it lies in the cache."""
    for i in numba.prange(len(out)):
        out[i] = 0
        for j in range(indptr[i], indptr[i + 1]):
            out[i, indices[j]] = data[j]


def loaders(codecs: tuple[str, ...]) -> dict[str, Loader]:
    """All loaders by name, the peers first; those of a packed store once for each codec."""
    # Around what the documentation of annbatch says; the first was the fastest of earlier measurements.
    chunks = tuple({"chunk_size": c, "preload_nchunks": n} for c, n in ((256, 64), (64, 256), (512, 32)))
    reads = tuple({"io_batch_size": n} for n in (65_536, 16_384))
    annbatch_to_dense = _with(annbatch_batches, dense=True)
    found = [
        Loader(CSR_PEER, ANNBATCH, "CSR", "", annbatch_batches, annbatch_rows, chunks, _preloaded),
        Loader(DENSE_PEER, ANNBATCH, "dense", "", annbatch_to_dense, annbatch_rows, chunks, _preloaded),
        Loader(SOMA_PEER, SOMA, "CSR", "", soma_ml_batches, same_rows, reads, lambda s: s["io_batch_size"]),
        replace(_ours("SOMA in place", SOMA_IN_PLACE, SOMA_PEER), window=_whole_epoch),
        replace(
            _ours("SOMA in place, into a new cache", SOMA_IN_PLACE, SOMA_PEER, caching=True),
            window=_whole_epoch,
        ),
        _ours("SOMA from its cache", SOMA_CACHE, SOMA_PEER),
        _ours("AnnData-Zarr in place", IN_PLACE),
        _ours("annbatch's store in place", ANNBATCH_IN_PLACE),
    ]
    for codec in codecs:
        store = f"{PACKED}-{codec}"
        found.append(_ours(f"packed {codec}", store))
        found.append(_ours(f"packed {codec}, int32 + float32", store, widened=True))
        found.append(_ours(f"packed {codec}, dense", store, DENSE_PEER, dense=True))
    found.append(Loader(LIMIT, ATLAS, "dense", DENSE_PEER, scatter_limit, same_rows))
    return {loader.name: loader for loader in found}


def _ours(what: str, store: str, rival: str = CSR_PEER, **how: bool) -> Loader:
    form: Literal["CSR", "dense"] = "dense" if how.get("dense") else "CSR"
    return Loader(f"ours: {what}", store, form, rival, _with(our_batches, **how), our_rows)


def _with(batches: Callable[..., Batches], **how: bool) -> Callable[[Epoch, Settings], Batches]:
    return lambda epoch, settings: batches(epoch, settings, **how)


def _whole_epoch(settings: Settings) -> int:
    """The first batch takes from 64 slabs: what follows comes of what was read for it."""
    return sys.maxsize


def _preloaded(settings: Settings) -> int:
    return settings["chunk_size"] * settings["preload_nchunks"]


def require_same_counts(batch: Batch, rows: IntArray, root: Path) -> None:
    """Raise ValueError unless the batch is anndata's own read of these rows of the atlas."""
    ascending = np.argsort(rows)
    atlas = anndata.io.sparse_dataset(zarr.open_group(root / ATLAS, mode="r")["X"])
    truth = atlas[rows[ascending]].toarray()
    if not np.array_equal(as_dense(batch.counts)[ascending], truth):
        raise ValueError(f"the batch of atlas rows {rows[:5]}... is not what anndata reads there.")


def as_dense(counts: Any) -> NDArray[Any]:
    if isinstance(counts, np.ndarray):
        return counts
    return counts.toarray() if isinstance(counts, csr_matrix) else counts.to_dense().numpy()
