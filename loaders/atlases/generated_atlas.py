"""A finished generated atlas read back: its provenance, its schema, and the latents of its cells."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from cfgen_scale.types import AtlasSchema

from .chunk_files import Content
from .generated_layout import (
    CHUNK_COLUMN,
    GROUP_COLUMN,
    LATENT_KEY,
    LOG,
    NAMES,
    PROVENANCE_KEY,
    CellSlab,
    counts_path,
)


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

    @staticmethod
    def at(path: Path, schema: AtlasSchema) -> "GeneratedAtlas":
        """One that was opened before, and of which numbers alone are wanted: its provenance is not read."""
        return GeneratedAtlas(path, zarr.open_group(path, mode="r"), schema, {})

    @property
    def n_cells(self) -> int:
        return int(self.array(f"obs/{NAMES}").shape[0])

    @property
    def content(self) -> Content:
        return "counts" if "mod" in self.root or counts_path(self.schema, 0) in self.root else "latents"

    def array(self, path: str) -> Any:
        """An array of the atlas. Raises KeyError if there is none."""
        return cast(zarr.Array[Any], self.root[path])

    def read_cells(self, cells: slice) -> CellSlab:
        """What was drawn of the cells from ``cells.start`` to ``cells.stop``."""
        begin, end = cells.start, cells.stop
        labels = [self.array(f"obs/{c.name}/codes")[begin:end] for c in self.schema.covariates]
        factors = [self.array(f"obs/{LOG}{name}")[begin:end] for name in self.schema.size_factor_columns]
        n_cells = len(range(*cells.indices(self.n_cells)))
        return CellSlab(
            first=begin,
            labels=np.stack(labels, axis=1).astype(np.int64) if labels else np.empty((n_cells, 0), np.int64),
            log_size_factor=np.stack(factors, axis=1) if factors else np.empty((n_cells, 0), np.float32),
            latent=self.array(f"obsm/{LATENT_KEY}")[begin:end],
            group=self.array(f"obs/{GROUP_COLUMN}")[begin:end],
            chunk=self.array(f"obs/{CHUNK_COLUMN}")[begin:end],
        )


def cells_asked_for(provenance: Mapping[str, Any]) -> list[int]:
    """The number of cells of each group of the request. Raises ValueError if the provenance does not say."""
    try:
        return [int(group["cells"]) for group in provenance["plan"]["request"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the provenance does not say how many cells were asked for ({error!r})") from None


def read_provenance(out: str | Path) -> dict[str, Any]:
    """What was written into uns of the atlas ``out``, parsed: the provenance given and the schema.

    Raises FileExistsError if ``out`` is something other than a generated atlas.
    """
    from anndata.io import read_elem

    try:
        texts = read_elem(zarr.open_group(out, mode="r")["uns"])[PROVENANCE_KEY]
        return {name: json.loads(text) for name, text in texts.items()}
    except (zarr.errors.GroupNotFoundError, FileNotFoundError, KeyError, NotADirectoryError):
        raise FileExistsError(
            f"{out} exists and is not an atlas that was generated. Choose another path."
        ) from None
