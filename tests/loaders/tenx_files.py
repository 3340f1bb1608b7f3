"""Files as Cell Ranger leaves them, made from an AnnData: only the counts, the names and the barcodes."""

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
from anndata import AnnData
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csr_matrix


def write_tenx_h5(
    adata: AnnData,
    path: Path,
    *,
    kinds: Sequence[str] | None = None,
    symbols: Sequence[str] | None = None,
    genomes: Sequence[str] = (),
) -> Path:
    """Version 3; with ``genomes`` version 2, one group for each. Ids are ``id_of_NAME``."""
    counts = csr_matrix(adata.X, dtype=np.int32)
    names = _text(adata.var_names if symbols is None else symbols)
    ids = _text(f"id_of_{name}" for name in adata.var_names)
    with h5py.File(path, "w") as file:
        for genome in genomes or ["matrix"]:
            group = file.create_group(genome)
            group["barcodes"] = _text(adata.obs_names)
            group["shape"] = np.array(adata.shape[::-1], dtype=np.int32)
            for part in ("data", "indices", "indptr"):
                values = getattr(counts, part).astype(np.int32 if part == "data" else np.int64)
                group.create_dataset(part, data=values, chunks=(min(50, len(values)),), compression="gzip")
            if genomes:
                group["genes"], group["gene_names"] = ids, names
            else:
                features = group.create_group("features")
                features["id"], features["name"] = ids, names
                features["feature_type"] = _text(kinds or ["Gene Expression"] * adata.n_vars)
                features["genome"] = _text(["GRCh38"] * adata.n_vars)
    return path


def write_tenx_mtx(
    adata: AnnData, folder: Path, *, version: int = 3, kinds: Sequence[str] | None = None, prefix: str = ""
) -> Path:
    """Version 3: gzipped, with kinds of features; version 2: plain, ``genes.tsv`` of two columns."""
    folder.mkdir()
    rows = [[f"id_of_{name}", name] for name in adata.var_names]
    if version == 3:
        kinds = kinds or ["Gene Expression"] * adata.n_vars
        rows = [[*row, kind] for row, kind in zip(rows, kinds, strict=True)]
    files = {
        "features.tsv" if version == 3 else "genes.tsv": "\n".join("\t".join(row) for row in rows),
        "barcodes.tsv": "\n".join(adata.obs_names) + "\n",
    }
    mmwrite(folder / "matrix.mtx", coo_matrix(adata.X.T, dtype=np.int64))
    files["matrix.mtx"] = (folder / "matrix.mtx").read_text()
    (folder / "matrix.mtx").unlink()
    for name, text in files.items():
        if version == 3:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{prefix}{name}").write_text(text)
    return folder


def _text(values: Iterable[str]) -> np.ndarray:
    return np.array([str(value).encode() for value in values])
