"""Prepare an atlas once: check every count, choose genes and cells, split, describe; copy where needed.

What is made is a directory: `prepared.json` (the manifest: schema, sources, statistics), `index.zarr` (arrays
per cell and gene) and, unless the sources are AnnData-Zarr or SOMA and read in place, `cells.zarr` (the
cells kept, in the layout of loaders/layout.py), one for each modality. It is written aside, by one process at
a time, and renamed when it is whole: what a run left that was killed, or whose disk was full, is removed, and
the same command starts from the beginning.

Memory is a slab of cells and a few numbers and the name of each cell; a repack adds what shuffle.py says,
files in compressed chunks, however many, the one cache of stores/csr_arrays.py, and folders of matrix.mtx the
largest of them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cfgen_scale.types import LikelihoodKind
from loaders.aside import written_aside
from loaders.layout import Codec
from loaders.preparation.counts_preparation import CountsPreparation
from loaders.preparation.manifest import read_manifest
from loaders.preparation.prepare_request import NEGATIVE_BINOMIAL, PrepareRequest, describe
from loaders.preparation.prepared import Prepared
from loaders.preparation.prepared_files import write_prepared
from loaders.preparation.split import TRAIN, SplitRequest
from loaders.stores.aligned_store import AlignedStore
from loaders.stores.annotations import AnnotationTable
from loaders.stores.collection import leaves
from loaders.stores.source_options import PerModality, SourceOptions, require_names
from loaders.stores.sources import Source, Sources, listed
from loaders.stores.stacked_store import StackedStore
from loaders.stores.store import RNA, CellStore


def prepare(
    sources: Source | Sequence[Source],
    out: str | Path,
    *,
    modalities: Mapping[str, Source | Sequence[Source] | None] | None = None,
    likelihoods: Mapping[str, LikelihoodKind] | None = None,
    test: Source | None = None,
    split_column: str | None = None,
    labels: Sequence[str] = (),
    obs: str | Path | None = None,
    layer: PerModality = None,
    split_by: str | None = None,
    min_cells_per_gene: int = 20,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    repack: bool = False,
    codec: Codec = "none",
    progress: bool = True,
    measurement: PerModality = None,
    obs_filter: str | None = None,
    feature_column: PerModality = None,
) -> Prepared:
    """Prepare the cells of ``sources`` (whatever `open_store` takes) in the new directory ``out``.

    modalities           what else was measured in the same cells, such as {"protein": "adt.h5ad"}: counts,
                         whose cells are found by name; obs and splits are those of ``sources``. None for
                         the sources: the modality of that name of ``sources``, each a MuData or SOMA
    likelihoods          "negative_binomial" (the default), "poisson" or "bernoulli" by modality, whose first
                         is "rna". Bernoulli counts are binarised as they are read: 1 where there is any
    labels               obs columns that become attributes; an empty value is an unlabelled cell
    obs                  table of obs columns that the sources lack: see stores/annotations.py
    layer                where raw counts are; None: X. As measurement and feature_column, one for all
                         sources, or by modality: {"rna": "counts"}
    test                 one more source whose cells, all of them, are the test cells
    split_column         obs column that says train, validation or test of every cell
    split_by             obs column (donor) whose levels are kept whole in one split
    validation_fraction  drawn from the training cells, unless split_column names validation cells
    test_fraction        drawn likewise, unless ``test`` or ``split_column`` says which are the test cells
    min_cells_per_gene   genes that occur in fewer training cells are removed; 0 keeps all
    repack               copy the cells whatever the source, in a random order that ``seed`` decides; without
                         it files (h5ad, 10x) are copied in their own order, AnnData-Zarr and SOMA are read
                         in place
    codec                of a copy. "none": read at the speed of memory, five or six bytes a non-zero;
                         "zstd": one byte, for object stores, archives and small disks
    measurement, obs_filter, feature_column   of a SOMA experiment: see `open_store`

    Cells without a count over the genes kept, of any modality, are dropped and their number reported. The
    same call on what it has made returns that. Raises FileNotFoundError, FileExistsError (``out`` holds
    something else), SchemaError (sources with different genes), RuntimeError (another process writes
    ``out``), PermissionError or ValueError, all before anything is written, except that an entry which is no
    count is found by a first pass over all counts.
    """
    given = listed(sources)
    named = Sources.of(
        given if test is None or not given else [*given, test],
        modalities or {},
        SourceOptions(layer, measurement, obs_filter, feature_column),
    )
    require_names(likelihoods, list(named.by_modality), "a likelihood")
    columns = [name for name in (*labels, split_by, split_column) if name is not None]
    table = AnnotationTable.read(obs, columns) if obs is not None else None
    request = PrepareRequest(
        labels=tuple(labels),
        likelihoods={n: kind for n, kind in (likelihoods or {}).items() if kind != NEGATIVE_BINOMIAL},
        obs=table.described if table else None,
        layer=named.options.layers,
        soma=named.options.soma,
        min_cells_per_gene=min_cells_per_gene,
        repack=repack,
        codec=codec,
        split=SplitRequest(
            split_by, split_column, validation_fraction, test_fraction, seed, test is not None
        ),
    )
    stores = named.open()
    described = [describe(store, name) for name, each in stores.items() for store in each]
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not os.listdir(out)):
        return _already_prepared(out, request, described, progress=progress)
    first_test_cell = sum(store.n_cells for store in stores[RNA][: len(given)])
    _prepare_new(out, stores, table, request, described, first_test_cell, progress=progress)
    return Prepared.open(out)


def _prepare_new(
    out: Path,
    stores: Mapping[str, Sequence[CellStore]],
    table: AnnotationTable | None,
    request: PrepareRequest,
    described: list[dict[str, Any]],
    first_test_cell: int,
    *,
    progress: bool,
) -> None:
    """Align and split the cells of the stores of each modality, and write all there is to say of them."""
    annotated = table.annotate(leaves(stores[RNA])) if table else leaves(stores[RNA])
    request.require_columns(annotated)
    first = StackedStore(annotated)
    aligned = {
        name: AlignedStore(StackedStore(leaves(further)), first)
        for name, further in stores.items()
        if name != RNA
    }
    split = request.split.codes(first, first_test_cell=first_test_cell)
    with written_aside(out) as partial:
        counts = CountsPreparation(partial, request, described, split == TRAIN, progress=progress)
        write_prepared(partial, first, counts.prepare({RNA: first, **aligned}), split, request, described)


def _already_prepared(
    out: Path, request: PrepareRequest, described: list[dict[str, Any]], *, progress: bool
) -> Prepared:
    """What is at ``out``, if it was made from the same sources in the same way; else FileExistsError."""
    try:
        manifest = read_manifest(out)
    except (ValueError, NotADirectoryError) as error:
        raise FileExistsError(
            f"{out} exists and is not a prepared atlas. Choose another directory."
        ) from error
    request.require_same(manifest, described, out=out)
    if progress:
        print(f"already prepared: {out}")
    return Prepared.open(out)
