"""The stores of the loader benchmark: one simulated atlas in the form of each loader, each built once.

    python -m tests.benchmarks.loader_stores NAME --root DIR --cells N

builds one in this process and leaves beside it what the building cost; `build` does that in another process.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import zarr

from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.simulated_atlas import DONORS, TYPES, SimulatedAtlas, write_atlas

ATLAS, ANNBATCH, SOMA = "atlas.zarr", "annbatch.zarr", "soma"
IN_PLACE, ANNBATCH_IN_PLACE, SOMA_IN_PLACE = "in-place", "annbatch-in-place", "soma-in-place"
SOMA_CACHE = "soma-cache"  # the cells of SOMA_IN_PLACE, copied by reading them
PACKED = "packed"  # packed-CODEC with a codec that `loaders.preparation.prepare` is told
FRAGMENT_NON_ZEROS = 100_000_000  # written to SOMA at once: tiledbsoma.io's own goal


def build(name: str, root: Path, *, cells: int) -> dict[str, Any]:
    """What building a store cost; it is built, in a process of its own, if that has not been done."""
    record = root / f"{name}.json"
    if not record.exists():
        for needed in needs(name):
            build(needed, root, cells=cells)
        print(f"building {root / name}", flush=True)
        command = [sys.executable, "-m", __spec__.name, name, "--root", str(root), "--cells", str(cells)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    document: dict[str, Any] = json.loads(record.read_text())
    if document["cells"] != cells:
        raise SystemExit(f"{root} holds an atlas of {document['cells']:,} cells: choose another --root.")
    return document


def needs(name: str) -> tuple[str, ...]:
    """The stores that a store is made from, and read from where it is prepared in place."""
    return {
        ATLAS: (),
        ANNBATCH_IN_PLACE: (ANNBATCH,),
        SOMA_IN_PLACE: (SOMA,),
        SOMA_CACHE: (SOMA_IN_PLACE,),
    }.get(name, (ATLAS,))


def files(name: str, root: Path) -> list[Path]:
    """All files that are read when a store is read."""
    names = (name, *needs(name)) if name.endswith(IN_PLACE) else (name,)
    return [path for n in names for path in (root / n).rglob("*") if path.is_file()]


def write_annbatch(root: Path, out: Path, *, cells: int) -> None:
    """annbatch's collection as its documentation says: its writer, its defaults, shuffled.

    But for how much is shuffled in memory at once, 20 GB by default: a million cells did not fit into 24 GB.
    """
    from annbatch import DatasetCollection

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    rng = np.random.default_rng(0)
    DatasetCollection(zarr.open_group(out, mode="w")).add_adatas([root / ATLAS], rng=rng, dataset_size="4GB")


def write_soma(root: Path, out: Path, *, cells: int) -> None:
    """A SOMA experiment in TileDB-SOMA's default layout.

    Part by part, since tiledbsoma.io refuses what the anndata and pandas of today give it; in fragments of
    the size that it would write.
    """
    import pyarrow as pa
    import tiledbsoma

    group = zarr.open_group(root / ATLAS, mode="r")
    counts = anndata.io.sparse_dataset(group["X"])
    obs, var = (anndata.io.read_elem(group[name]) for name in ("obs", "var"))
    with tiledbsoma.Experiment.create(str(out)) as experiment:
        _write_frame(experiment, "obs", obs, "obs_id")
        measurements = experiment.add_new_collection("ms")
        measurement = measurements.add_new_collection("RNA", tiledbsoma.Measurement)
        _write_frame(measurement, "var", var, "var_id")
        matrices = measurement.add_new_collection("X")
        matrix = matrices.add_new_sparse_ndarray("data", type=pa.float32(), shape=counts.shape)
        for part in np.array_split(np.arange(cells), -(-group["X/data"].shape[0] // FRAGMENT_NON_ZEROS)):
            slab = counts[part[0] : part[-1] + 1].tocoo()
            rows, columns = slab.row.astype(np.int64) + part[0], slab.col.astype(np.int64)
            matrix.write(pa.table({"soma_dim_0": rows, "soma_dim_1": columns, "soma_data": slab.data}))


def _write_frame(parent: Any, name: str, frame: Any, index: str) -> None:
    import pyarrow as pa
    import tiledbsoma

    columns = {"soma_joinid": np.arange(len(frame)), index: pa.array(list(frame.index), pa.large_string())}
    columns |= {column: pa.array(frame[column].astype(str).tolist(), pa.large_string()) for column in frame}
    table, uri = pa.table(columns), f"{parent.uri}/{name}"
    tiledbsoma.DataFrame.create(uri, schema=table.schema, domain=[[0, len(frame) - 1]]).close()
    with tiledbsoma.DataFrame.open(uri, "w") as written:
        written.write(table)
    parent.set(name, tiledbsoma.DataFrame.open(uri), use_relative_uri=True)


def prepare_ours(source: str, root: Path, out: Path, *, cells: int, **options: Any) -> None:
    """Every cell and gene of a store, prepared as a user would."""
    from loaders import prepare

    whole = root / source
    sources = sorted(whole.glob("dataset_*")) if source == ANNBATCH else [whole]
    prepared = prepare(sources, out, labels=("cell_type", "donor"), min_cells_per_gene=0, **options)
    kept = (prepared.n_cells, [len(c.categories) for c in prepared.schema.covariates])
    if kept != (cells, [TYPES, DONORS]):
        raise ValueError(f"{out} holds {kept} cells and categories of the {cells:,} cells of the atlas.")


def fill_cache(root: Path, out: Path, *, cells: int) -> None:
    """All cells read once through a cache, as a first epoch does."""
    from loaders import CellStream, Prepared

    prepared = Prepared.open(root / SOMA_IN_PLACE, cache=out)
    for _ in CellStream(prepared, split="all", batch_cells=4_096, epochs=1):
        pass


def writer(name: str) -> Callable[..., None]:
    """The function that writes a store. Raises ValueError for a name that is none."""
    known: dict[str, Callable[..., None]] = {
        ANNBATCH: write_annbatch,
        SOMA: write_soma,
        IN_PLACE: partial(prepare_ours, ATLAS),
        ANNBATCH_IN_PLACE: partial(prepare_ours, ANNBATCH),
        SOMA_IN_PLACE: partial(prepare_ours, SOMA),
        SOMA_CACHE: fill_cache,
        PACKED: partial(prepare_ours, ATLAS, repack=True),
    }
    if name == ATLAS:
        return lambda root, out, *, cells: write_atlas(SimulatedAtlas(cells), out)
    if name.startswith(f"{PACKED}-"):
        return partial(prepare_ours, ATLAS, repack=True, codec=name.removeprefix(f"{PACKED}-"))
    if name not in known:
        raise ValueError(f"there is no store {name!r}: {', '.join((ATLAS, *known))} or {PACKED}-CODEC.")
    return known[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cells", type=int, required=True)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    out = options.root / options.name
    write = writer(options.name)
    # What a building that was killed left behind has no record beside it.
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    with PeakMemory() as memory:
        write(options.root, out, cells=options.cells)
    record = {
        "cells": options.cells,
        "seconds": time.monotonic() - began,
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "files": sum(path.is_file() for path in out.rglob("*")),
        **memory.peaks(),
    }
    (options.root / f"{options.name}.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
