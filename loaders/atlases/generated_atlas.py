"""A finished generated atlas read back: its provenance, its schema, and the latents of its cells."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import AtlasSchema, IntArray

from .chunk_files import Content
from .generated_layout import (
    CHUNK_COLUMN,
    GROUP_COLUMN,
    LATENT_KEY,
    NAMES,
    PROVENANCE_KEY,
    counts_path,
    size_factor_columns,
)


@dataclass(frozen=True)
class LatentCells:
    """B cells of an atlas before their counts: all that decoding needs, as it was drawn.

    labels (B, K) int64, -1 = untold; log_size_factor (B, S), latent (B, D) float32; group and chunk (B,)
    int32, their places in the request and the plan.
    """

    labels: IntArray
    log_size_factor: NDArray[np.float32]
    latent: NDArray[np.float32]
    group: NDArray[np.int32]
    chunk: NDArray[np.int32]


@dataclass(frozen=True)
class GeneratedAtlas:
    """The opened atlas at ``path``; ``provenance`` is what its writer gave, without the schema."""

    path: Path
    root: zarr.Group
    schema: AtlasSchema
    provenance: dict[str, Any]

    @staticmethod
    def open(path: str | Path) -> "GeneratedAtlas":
        """Raises FileNotFoundError, or FileExistsError if it is something other than a generated atlas."""
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no atlas at {path}.")
        provenance = read_provenance(path)
        schema = AtlasSchema.from_json(provenance.pop("schema"))
        return GeneratedAtlas(Path(path), zarr.open_group(path, mode="r"), schema, provenance)

    @property
    def n_cells(self) -> int:
        return int(self.array(f"obs/{NAMES}").shape[0])

    @property
    def content(self) -> Content:
        return "counts" if "mod" in self.root or counts_path(self.schema, 0) in self.root else "latents"

    def array(self, path: str) -> Any:
        """An array of the atlas. Raises KeyError if there is none."""
        return cast(zarr.Array[Any], self.root[path])

    def read_latents(self, cells: slice) -> LatentCells:
        """The cells from ``cells.start`` to ``cells.stop``."""
        begin, end = cells.start, cells.stop
        labels = [self.array(f"obs/{c.name}/codes")[begin:end] for c in self.schema.covariates]
        factors = [self.array(f"obs/{name}")[begin:end] for _, name in size_factor_columns(self.schema)]
        n_cells = len(range(*cells.indices(self.n_cells)))
        return LatentCells(
            labels=np.stack(labels, axis=1).astype(np.int64) if labels else np.empty((n_cells, 0), np.int64),
            log_size_factor=np.stack(factors, axis=1) if factors else np.empty((n_cells, 0), np.float32),
            latent=self.array(f"obsm/{LATENT_KEY}")[begin:end],
            group=self.array(f"obs/{GROUP_COLUMN}")[begin:end],
            chunk=self.array(f"obs/{CHUNK_COLUMN}")[begin:end],
        )


def read_provenance(out: str | Path) -> dict[str, Any]:
    """What was written into uns of the atlas ``out``, parsed: the provenance given and the schema.

    Raises FileExistsError if ``out`` is something other than a generated atlas.
    """
    try:
        texts = anndata.io.read_elem(zarr.open_group(out, mode="r")["uns"])[PROVENANCE_KEY]
        return {name: json.loads(text) for name, text in texts.items()}
    except (zarr.errors.GroupNotFoundError, FileNotFoundError, KeyError, NotADirectoryError):
        raise FileExistsError(
            f"{out} exists and is not an atlas that was generated. Choose another path."
        ) from None
