"""Latents of an atlas kept on Zarr: encoded once by many workers, read whole by the flow stage.

float32, chunks of whole cells and no shards: chunk k is written by worker k mod W alone. The cache carries
the key under which it was made (a digest of autoencoder weights and data) and counts as there only when it
has been declared finished with every chunk present.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from cfgen_scale.types import IntArray

CHUNK_CELLS = 4_096


@dataclass(frozen=True)
class Latents:
    """Latents (n, D) float32 and the rows (n,) int64 of their cells in the prepared atlas."""

    values: NDArray[np.float32]
    rows: IntArray


def create_latents(
    path: str | Path, rows: IntArray, dim: int, *, key: str, chunk_cells: int = CHUNK_CELLS
) -> None:
    """An empty cache for the cells ``rows`` (n,), by one process; what was at ``path`` is replaced."""
    shutil.rmtree(path, ignore_errors=True)
    root = zarr.create_group(path, zarr_format=3)
    root.attrs.update({"key": key, "complete": False})
    root.create_array("rows", data=np.asarray(rows, dtype=np.int64))
    root.create_array(
        "latents",
        shape=(len(rows), dim),
        dtype=np.float32,
        chunks=(chunk_cells, dim),
        # No latent is NaN: a chunk equal to the fill value would not be stored, and not be counted.
        fill_value=np.nan,
        compressors=[BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=4)],
    )


def write_latents(path: str | Path, first: int, values: NDArray[np.float32]) -> None:
    """Write the latents of cells ``first`` .. of the cache: one whole chunk, or the last shorter one.

    Raises ValueError for a piece of a chunk (two writers would lose each other's) or a value not finite.
    """
    latents = _latents(zarr.open_group(path, mode="r+"))
    chunk = latents.chunks[0]
    if first % chunk or len(values) != min(chunk, latents.shape[0] - first):
        raise ValueError(
            f"cells {first} to {first + len(values)} are not one whole chunk of {chunk} of "
            f"{latents.shape[0]} latents: encode in batches of {chunk} cells."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"latents of cells {first} to {first + len(values)} are not all finite.")
    latents[first : first + len(values)] = values


def finish_latents(path: str | Path) -> None:
    """Declare the cache complete: one process, after all writers. Raises ValueError if a chunk is missing."""
    root = zarr.open_group(path, mode="r+")
    latents = _latents(root)
    if latents.nchunks_initialized < latents.nchunks:
        raise ValueError(
            f"{path} has {latents.nchunks_initialized} of {latents.nchunks} chunks: not all is encoded."
        )
    root.attrs["complete"] = True


def open_latents(path: str | Path, *, key: str) -> Latents | None:
    """The latents made under ``key``; None if there are none, not all of them, or those of another key."""
    if not (Path(path) / "zarr.json").exists():
        return None
    root = zarr.open_group(path, mode="r")
    if root.attrs.get("key") != key or not root.attrs.get("complete"):
        return None
    return Latents(np.asarray(_latents(root)), np.asarray(root["rows"]))


def _latents(root: zarr.Group) -> zarr.Array[Any]:
    return cast(zarr.Array[Any], root["latents"])
