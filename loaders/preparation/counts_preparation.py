"""The two passes of `prepare` over the counts of each modality, and what they leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import IntArray, LikelihoodKind, Modality
from loaders.layout import write_array
from loaders.preparation.cell_copy import CellCopy
from loaders.preparation.manifest import cells_of
from loaders.preparation.prepare_request import PrepareRequest
from loaders.preparation.scan import CellScan, GeneScan, RowsOfCounts, scan_cells, scan_genes
from loaders.stores.aligned_store import AlignedStore

IN_PLACE_KINDS = {"anndata-zarr", "anndata-zarr-collection", "soma"}


@dataclass(frozen=True)
class PreparedCounts:
    """One modality: its features kept, what the passes found, and its copy if it is not read in place."""

    name: str
    likelihood: LikelihoodKind
    store: RowsOfCounts
    genes: GeneScan
    columns: IntArray
    cells: CellScan
    copy: CellCopy | None

    @property
    def modality(self) -> Modality:
        """What the schema says of it."""
        features = tuple(np.array(self.store.features, dtype=object)[self.columns])
        return Modality(self.name, self.likelihood, features)

    def notes(self) -> list[str]:
        """What a person should know of how its cells are kept and read."""
        notes = []
        if not self.modality.counted:
            largest = self.genes.largest_count
            notes.append(f"counts of {self.name!r} are binarised: 1 where a cell has any (up to {largest:,})")
        if isinstance(self.store, AlignedStore) and not self.copy and not self.store.is_in_order:
            notes.append(
                f"cells of {self.name!r} lie in another order than those of the first modality: read in "
                f"place, chunks are decoded again and again; --repack writes both in one order"
            )
        return notes

    def order(self, kept: IntArray) -> IntArray:
        """(n,) which of the cells kept, by rows of the source, comes first, second and so on."""
        return self.copy.order(kept) if self.copy else np.arange(len(kept))

    def finish(self, obs: pd.DataFrame) -> None:
        """Write the copy, if there is one, with ``obs`` in its order."""
        if self.copy:
            self.copy.finish(obs)

    def entry(self) -> dict[str, Any]:
        """What the manifest says of the modality. The copy must be finished."""
        return {
            "name": self.name,
            "in_place": self.copy is None,
            "features_removed": len(self.store.features) - len(self.columns),
            "largest_count": self.genes.largest_count if self.modality.counted else 1,
            "stored_zeros": self.genes.stored_zeros and self.copy is None,
            **({"copy": self.copy.identity()} if self.copy else {}),
        }

    def write_index(self, group: zarr.Group, kept: IntArray) -> None:
        """Arrays of features, and of the cells ``kept`` (n,) in the order of the atlas."""
        write_array(group, "columns", self.columns, gaps=True)
        write_array(group, "feature_totals", self.cells.feature_totals)
        write_array(group, "non_zeros", self.cells.non_zeros[kept])
        if isinstance(self.store, AlignedStore):
            write_array(group, "source_rows", self.store.rows[kept])


class CountsPreparation:
    """Checks, measures and, where asked for or needed, copies the counts of modalities into ``path``."""

    def __init__(
        self,
        path: Path,
        request: PrepareRequest,
        described: list[dict[str, Any]],
        is_training: NDArray[np.bool_],
        *,
        progress: bool,
    ) -> None:
        self._path = path
        self._request = request
        self._described = described
        self._is_training = is_training
        self._progress = progress

    def prepare(self, stores: Mapping[str, RowsOfCounts]) -> list[PreparedCounts]:
        """All modalities, by name, whose stores have the same rows; the first says what an error calls them.

        Two passes over each; of several modalities a third between them, which finds the cells that lack
        counts of one.
        """
        genes = {
            name: scan_genes(store, self._is_training, progress=self._progress)
            for name, store in stores.items()
        }
        least = self._request.min_cells_per_gene
        columns = {name: _kept_genes(found.training_cells, least, name) for name, found in genes.items()}
        scans: dict[str, CellScan] = {}
        dropped = None
        if len(stores) > 1:
            scans = {
                name: self._scan(name, store, columns[name], None, None) for name, store in stores.items()
            }
            dropped = ~np.all([scan.kept for scan in scans.values()], axis=0)
        prepared = []
        for name, store in stores.items():
            nnz = int(genes[name].all_cells[columns[name]].sum())
            if dropped is not None:
                nnz = int(scans[name].non_zeros[~dropped].sum(dtype=np.int64))
            largest = 1 if self._binarised(name) else genes[name].largest_count
            copy = self._copy(name, store, columns[name], nnz=nnz, largest_count=largest)
            cells = self._scan(name, store, columns[name], dropped, copy)
            likelihood = self._request.likelihood(name)
            prepared.append(PreparedCounts(name, likelihood, store, genes[name], columns[name], cells, copy))
        return prepared

    def _binarised(self, name: str) -> bool:
        return self._request.likelihood(name) == "bernoulli"

    def _scan(
        self,
        name: str,
        store: RowsOfCounts,
        columns: IntArray,
        dropped: NDArray[np.bool_] | None,
        copy: CellCopy | None,
    ) -> CellScan:
        return scan_cells(
            store,
            columns,
            self._is_training,
            dropped=dropped,
            binarised=self._binarised(name),
            keep=copy.append if copy else None,
            progress=self._progress,
        )

    def _copy(
        self, name: str, store: RowsOfCounts, columns: IntArray, *, nnz: int, largest_count: int
    ) -> CellCopy | None:
        kinds = {source["kind"] for source in self._described if source["modality"] == name}
        if not self._request.repack and kinds <= IN_PLACE_KINDS:
            return None
        return CellCopy(
            self._path / cells_of(name),
            codec=self._request.codec,
            shuffle_seed=self._request.split.seed if self._request.repack else None,
            features=tuple(np.array(store.features, dtype=object)[columns]),
            n_rows=store.n_cells,
            nnz=nnz,
            largest_count=largest_count,
        )


def _kept_genes(training_cells: IntArray, least: int, modality: str) -> IntArray:
    kept = np.flatnonzero(training_cells >= least)
    if not len(kept):
        raise ValueError(
            f"no gene ({modality}) occurs in {least} training cells or more (the most frequent one is in "
            f"{int(training_cells.max(initial=0))}): lower min_cells_per_gene, 0 keeps all genes."
        )
    return kept
