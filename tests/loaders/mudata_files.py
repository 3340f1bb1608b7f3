"""MuData files written group by group, in the layout that the mudata package gives them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import write_elem


def write_mudata(parts: Mapping[str, AnnData], path: Path, *, obs: pd.DataFrame | None = None) -> Path:
    """A .h5mu or a MuData-Zarr, by the name of ``path``; ``obs`` of the root, else names of cells alone."""
    if obs is None:
        obs = pd.DataFrame(index=pd.Index(sorted(set().union(*(p.obs_names for p in parts.values())))))
    if path.suffix == ".h5mu":
        with h5py.File(path, "w", userblock_size=512) as file:
            _write(file, parts, obs)
    else:
        _write(zarr.open_group(path, mode="w", zarr_format=3), parts, obs)
    return path


def _write(root: Any, parts: Mapping[str, AnnData], obs: pd.DataFrame) -> None:
    root.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0})
    write_elem(root, "obs", obs)
    write_elem(root, "var", pd.DataFrame(index=pd.Index([n for p in parts.values() for n in p.var_names])))
    mod = root.create_group("mod")
    mod.attrs["mod-order"] = list(parts)
    for name, part in parts.items():
        write_elem(mod, name, part)
