"""Cells out of files: an AnnData, one modality of a file of several, or one split of a prepared atlas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from anndata import AnnData

PathLike = str | Path
HeldOut = Literal["test", "validation"]
MODALITIES = "mod"


class ModalityError(ValueError):
    """None of several modalities was named, or one that is not there; the message says which there are."""


def read_atlas(path: PathLike, modality: str | None = None) -> AnnData:
    """An AnnData from a .h5ad file, a .zarr directory or, of several modalities, a .h5mu or MuData-Zarr.

    ``modality`` is the one of several to take; its obs gets the columns that stand at the root alone. A file
    of one AnnData is taken as it is, whatever ``modality`` says. Raises ValueError for anything else.
    """
    suffix = Path(path).suffix
    if suffix not in (".h5ad", ".h5mu", ".zarr"):
        raise ValueError(
            f"{path} ends in {suffix!r}: atlases are .h5ad files or .zarr directories (of several "
            "modalities also .h5mu)."
        )
    try:
        return _read_zarr(Path(path), modality) if suffix == ".zarr" else _read_hdf5(Path(path), modality)
    except ModalityError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an AnnData: {error} Is it complete?") from error


def _read_hdf5(path: Path, modality: str | None) -> AnnData:
    import anndata
    import h5py

    with h5py.File(path, "r") as file:
        if MODALITIES in file:
            return _one_of(path, file, modality)
    return anndata.read_h5ad(path)


def _read_zarr(path: Path, modality: str | None) -> AnnData:
    import anndata
    import zarr

    if (path / MODALITIES).is_dir():
        return _one_of(path, zarr.open_group(path, mode="r"), modality)
    return anndata.read_zarr(path)


def _one_of(path: Path, group: Any, modality: str | None) -> AnnData:
    """One modality of an open group of several, with the obs columns of the root."""
    from anndata.io import read_elem

    known = ", ".join(sorted(repr(str(name)) for name in group[MODALITIES]))
    if modality is None or modality not in group[MODALITIES]:
        asked = "name one" if modality is None else f"there is no {modality!r}"
        raise ModalityError(f"{path} holds several modalities ({known}): {asked} (--modality).")
    cells: AnnData = read_elem(group[f"{MODALITIES}/{modality}"])
    shared = read_elem(group["obs"])
    for column in shared.columns.difference(cells.obs.columns):
        cells.obs[column] = shared[column].reindex(cells.obs_names)
    return cells


def read_split(data: PathLike, split: str, modality: str | None = None) -> AnnData:
    """The cells of one split of a prepared atlas; of its first modality unless one is named.

    Raises ValueError for a split without cells, ModalityError for an unknown modality.
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from loaders.preparation.prepared import Prepared

    prepared = Prepared.open(Path(data))
    if len(prepared.rows(split)) == 0:
        raise ValueError(
            f"{data} has no {split} cells, so there is nothing held out to compare with. Prepare it with a "
            f"{split} fraction, or give --train and --test files."
        )
    names = [m.name for m in prepared.schema.modalities]
    if modality is not None and modality not in names:
        raise ModalityError(f"{data} has no modality {modality!r}: it has {', '.join(map(repr, names))}.")
    cells = prepared.to_anndata(split)
    place = 0 if modality is None else names.index(modality)
    if place == 0:
        return cells
    var = pd.DataFrame(index=pd.Index(prepared.schema.modalities[place].features, dtype=object))
    return AnnData(prepared.read(prepared.rows(split), dtype=np.int32)[place], obs=cells.obs, var=var)


def real_cells(
    data: PathLike | None,
    train: PathLike | None,
    test: PathLike | None,
    *,
    modality: str | None = None,
    held_out: HeldOut = "test",
) -> tuple[AnnData | None, AnnData]:
    """Training cells (None: none were given) and held-out cells, from a prepared atlas or from files."""
    if data is None:
        assert test is not None, "require_one_source lets no other case through"
        return None if train is None else read_atlas(train, modality), read_atlas(test, modality)
    return read_split(data, "train", modality), read_split(data, held_out, modality)


def require_one_source(data: PathLike | None, train: PathLike | None, test: PathLike | None) -> None:
    """Real cells come from a prepared atlas or from files, never from both. Raises ValueError."""
    if data is not None and (train is not None or test is not None):
        raise ValueError("give real cells once: either --data, or --test with or without --train.")
    if data is None and test is None:
        raise ValueError(
            "no held-out real cells were given: use --data PREPARED, or --train FILE --test FILE."
        )


def require_present(*paths: PathLike | None) -> None:
    """Raise FileNotFoundError naming the first path that is not there."""
    for path in paths:
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist.")
