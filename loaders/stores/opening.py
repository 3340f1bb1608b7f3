"""Which reader answers for which path, URL or object."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from anndata import AnnData

from loaders.stores.anndata_store import open_h5ad, open_zarr
from loaders.stores.collection import (
    CollectionStore,
    has_parts_of_anndata,
    is_zarr_group,
    names_in_folder,
    names_in_group,
)
from loaders.stores.csr_arrays import CsrCaches
from loaders.stores.memory_store import MemoryStore
from loaders.stores.mudata_parts import H5MU, modalities_of, open_h5mu, require_part, split_part, with_root
from loaders.stores.store import CellStore
from loaders.stores.tenx_h5 import TenxH5Store, is_tenx_h5
from loaders.stores.tenx_mtx import TenxMtxStore, is_tenx_mtx

TILEDB_MARKS = ("__tiledb_group.tdb", "__group", "__schema")  # what a group or an array of TileDB holds
TILEDB_SCHEMES = ("s3", "gs", "gcs", "azure", "tiledb", "file")


class SomaOptions(TypedDict):
    """What `open_store` may be told of a SOMA experiment, beside the layer."""

    measurement: str | None
    obs_filter: str | None
    feature_column: str | None


class StoreOptions(SomaOptions):
    """What `open_store` may be told."""

    layer: str | None


def open_store(
    source: str | Path | AnnData,
    *,
    layer: str | None = None,
    measurement: str | None = None,
    obs_filter: str | None = None,
    feature_column: str | None = None,
    caches: CsrCaches | None = None,
) -> CellStore:
    """The reader for a .h5ad, an AnnData-Zarr (v2 or v3), a modality of a MuData (FILE.h5mu/mod/NAME or
    STORE.zarr/mod/NAME), a SOMA experiment, an .h5 or a folder of matrix.mtx of Cell Ranger, an AnnData in
    memory, or a folder of such files or shards.

    layer           holds the raw counts; without it they are in X (SOMA: in the only layer of X)
    measurement     of a SOMA experiment ("RNA")
    obs_filter      condition of TileDB on the obs of a SOMA experiment, such as ``tissue == "lung"``
    feature_column  var column with the names of features. Without it: of AnnData the index; of SOMA the index
                    column, var_id, feature_id or feature_name, the first that there is; of Cell Ranger
                    "name", the symbol, made unique ("id" is Ensembl's)
    caches          room for decoded chunks, for stores that share it

    A URL does not say what is behind it: one that ends in .zarr, or has a scheme that TileDB does not know,
    is Zarr; elsewhere TileDB is asked for an experiment. Raises FileNotFoundError for a missing path,
    PermissionError, or ValueError for what is not a store of cells or an option that does not fit it.
    """
    soma = SomaOptions(measurement=measurement, obs_filter=obs_filter, feature_column=feature_column)
    opening = _Opening(layer, soma, caches)
    if isinstance(source, AnnData):
        _refuse(measurement=measurement, obs_filter=obs_filter, where="an AnnData in memory")
        return MemoryStore(source, layer=layer, feature_column=feature_column)
    if "://" in str(source):
        return opening.url(str(source))
    path = Path(source).absolute()
    if (part := split_part(str(path))) and (names := modalities_of(part[0])):
        require_part(names, part[1], part[0])
        if Path(part[0]).suffix == H5MU:
            return opening.h5mu(*part)
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}. Check the path.")
    return opening.path(path)


def is_soma(source: str | Path | AnnData) -> bool:
    """Whether a SOMA experiment is there, or what cannot be told from one before it is opened."""
    if isinstance(source, AnnData):
        return False
    if "://" not in str(source):
        return _kind(Path(source)) == "soma"
    from loaders.stores.soma_store import is_experiment

    url = str(source).rstrip("/")
    known = url.partition("://")[0] in TILEDB_SCHEMES and not url.endswith(".zarr")
    return known and is_experiment(url)


@dataclass(frozen=True)
class _Opening:
    """Opens what is at a place, with the options that its reader takes."""

    layer: str | None
    soma: SomaOptions
    caches: CsrCaches | None

    def path(self, path: Path) -> CellStore:
        kind = _kind(path)
        if kind != "soma":
            _refuse(measurement=self.soma["measurement"], obs_filter=self.soma["obs_filter"], where=str(path))
        feature_column = self.soma["feature_column"]
        match kind:
            case "h5ad":
                return open_h5ad(
                    str(path), layer=self.layer, feature_column=feature_column, caches=self.caches
                )
            case "zarr":
                return self._zarr(str(path))
            case "soma":
                from loaders.stores.soma_store import open_soma

                return open_soma(str(path), layer=self.layer, **self.soma)
            case "10x-h5" | "10x-mtx":
                return self._tenx(path, kind)
            case "collection":
                return self._collection(str(path), names_in_folder(path))
            case "a MuData":
                require_part(modalities_of(path), "", str(path))
        raise ValueError(
            f"{path} is {kind}, not a store of cells. Give a .h5ad file, the directory or URL of an "
            f"AnnData-Zarr or a SOMA experiment, an .h5 or the folder of matrix.mtx of Cell Ranger, or a "
            f"folder of such files."
        )

    def h5mu(self, path: str, name: str) -> CellStore:
        """The modality ``name`` of a .h5mu file."""
        _refuse(measurement=self.soma["measurement"], obs_filter=self.soma["obs_filter"], where=path)
        feature_column = self.soma["feature_column"]
        return open_h5mu(path, name, layer=self.layer, feature_column=feature_column, caches=self.caches)

    def url(self, url: str) -> CellStore:
        scheme = url.partition("://")[0]
        if not url.rstrip("/").endswith(".zarr") and scheme in TILEDB_SCHEMES:
            return self._unknown_url(url)
        _refuse(measurement=self.soma["measurement"], obs_filter=self.soma["obs_filter"], where=url)
        return self._zarr_or_shards(url)

    def _unknown_url(self, url: str) -> CellStore:
        """SOMA if options of SOMA are given or TileDB finds an experiment, else Zarr; tells why neither."""
        from loaders.stores.soma_store import is_experiment, open_soma

        asks_for_soma = self.soma["measurement"] is not None or self.soma["obs_filter"] is not None
        if asks_for_soma or is_experiment(url):
            return open_soma(url, layer=self.layer, **self.soma)
        try:
            return self._zarr_or_shards(url)
        except (ValueError, OSError, ImportError) as error:
            raise ValueError(
                f"{url} is no SOMA experiment that TileDB can reach (a wrong region or missing credentials "
                f"look the same), and read as AnnData-Zarr: {error}"
            ) from error

    def _zarr_or_shards(self, url: str) -> CellStore:
        names = names_in_group(url)
        return self._collection(url.rstrip("/"), names) if names else self._zarr(url)

    def _zarr(self, uri: str) -> CellStore:
        store = open_zarr(
            uri, layer=self.layer, feature_column=self.soma["feature_column"], caches=self.caches
        )
        return with_root(store)

    def _tenx(self, path: Path, kind: str) -> CellStore:
        if self.layer is not None:
            raise ValueError(
                f"layer = {self.layer!r} is an option of AnnData and SOMA, and {path} has but one matrix. "
                f"Leave it out."
            )
        feature_column = self.soma["feature_column"]
        if kind == "10x-mtx":
            return TenxMtxStore(str(path), feature_column=feature_column)
        return TenxH5Store(str(path), feature_column=feature_column, caches=self.caches)

    def _collection(self, uri: str, names: list[str]) -> CellStore:
        """The stores ``names`` of a folder or a group of Zarr, which share the room for decoded chunks."""
        shared = _Opening(self.layer, self.soma, self.caches or CsrCaches.split())
        return CollectionStore(uri, names, [shared._member(f"{uri}/{name}") for name in names])

    def _member(self, uri: str) -> CellStore:
        if "://" in uri:
            return self._zarr(uri)
        if _kind(Path(uri)) not in ("h5ad", "zarr", "10x-h5", "10x-mtx"):
            raise ValueError(
                f"{uri} is no store of cells, and the folder that it is in was given as a collection of "
                f"them. Move it elsewhere, or name the stores one by one."
            )
        return self.path(Path(uri))


def _kind(path: Path) -> str:
    if not path.is_dir():
        if path.suffix == ".h5" and is_tenx_h5(path):
            return "10x-h5"
        if path.suffix == H5MU:
            return "a MuData"
        return "h5ad" if path.suffix in (".h5ad", ".h5") else f"a {path.suffix or 'nameless'} file"
    if any((path / name).exists() for name in TILEDB_MARKS):
        return "soma"
    if is_tenx_mtx(path):
        return "10x-mtx"
    if (path / "mod").is_dir() and modalities_of(path):
        return "a MuData"
    if has_parts_of_anndata(path):
        return "zarr"
    if names_in_folder(path):
        return "collection"
    return "zarr" if is_zarr_group(path) else "a folder without stores"


def _refuse(*, where: str, **options: str | None) -> None:
    """Raise ValueError naming the first option that is given."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name} = {value!r} is an option of SOMA experiments, and {where} is none. Leave it out."
            )
