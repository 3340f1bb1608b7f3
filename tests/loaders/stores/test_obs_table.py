"""Tables of cells are read in slabs, and say the same in every kind of file."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import loaders.stores.obs_table
from loaders.stores.obs_table import obs_columns, read_obs

ROWS = 10
FRAME = pd.DataFrame(
    {
        "kind": ["B", "", "T cells", "B", "B", "", "NK", "B", "T cells", "NK"],
        "other": ["x"] * ROWS,
        "n_counts": np.arange(ROWS) * 1.5 + 1,
    },
    index=pd.Index([f"cell{i}" for i in range(ROWS)], name="cell"),
)


def write(path: Path) -> Path:
    known = FRAME.replace("", None)
    match path.suffix:
        case ".csv":
            FRAME.to_csv(path)
        case ".tsv" | ".gz":
            FRAME.to_csv(path, sep="\t")
        case ".parquet":
            known.to_parquet(path)
        case _:
            obs = known.astype({"kind": "category", "other": "category"})
            cells = anndata.AnnData(np.zeros((ROWS, 1), dtype=np.float32), obs=obs)
            (cells.write_h5ad if path.suffix == ".h5ad" else cells.write_zarr)(path)
    return path


@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.tsv.gz", "o.parquet", "o.h5ad", "o.zarr"])
def test_slabs_hold_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write(tmp_path / name)
    assert set(obs_columns(path)) - {"cell"} == set(FRAME.columns)
    monkeypatch.setattr(loaders.stores.obs_table, "SLAB_ROWS", 4)
    slabs = list(read_obs(path, ["n_counts", "kind"]))
    assert [len(slab) for slab in slabs] == [4, 4, 2]
    kinds = [kind for slab in slabs for kind in slab["kind"].astype(object).fillna("")]
    assert kinds == FRAME["kind"].tolist()
    counts = pd.concat([pd.to_numeric(slab["n_counts"]) for slab in slabs])
    assert counts.tolist() == FRAME["n_counts"].tolist()


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no table of cells at .*o\.csv"):
        obs_columns(tmp_path / "o.csv")
    (tmp_path / "o.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"o\.xlsx is no table of cells: give a"):
        obs_columns(tmp_path / "o.xlsx")
    (tmp_path / "o.h5ad").write_text("")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        obs_columns(tmp_path / "o.h5ad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no AnnData-Zarr"):
        obs_columns(tmp_path / "empty")
