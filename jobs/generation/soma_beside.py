"""The TileDB-SOMA experiment of a generated atlas lies beside it: ``atlas.soma`` for ``atlas.zarr``."""

from pathlib import Path

from .write_atlas import SHAPING


def soma_of(atlas: str | Path) -> Path:
    """Where the experiment of an atlas lies."""
    atlas = Path(atlas).absolute()
    return atlas.with_name(f"{atlas.name.removesuffix('.zarr')}.soma")


def refuse_soma(out: str | Path, *, latents_only: bool) -> None:
    """Before any work: raises ValueError for latents alone, which SOMA has no place for, and FileExistsError
    where an experiment lies beside an atlas that is not there."""
    if latents_only:
        raise ValueError("--to soma writes counts, and --latents-only writes none. Leave one out.")
    if soma_of(out).exists() and not Path(out).exists():
        raise FileExistsError(
            f"{soma_of(out)} exists, and the atlas {out} does not. Choose another path, or delete it first."
        )


def write_soma_beside(atlas: Path) -> Path:
    """Write the experiment from a finished atlas, unless it is there: it is renamed into place when whole.

    Raises FileExistsError for the experiment of another atlas.
    """
    from loaders.atlases.soma_writer import write_soma

    out = soma_of(atlas)
    if out.exists():
        _require_same(out, atlas)
        return out
    return write_soma(atlas, out, progress=True)


def _require_same(experiment: Path, atlas: Path) -> None:
    from loaders.atlases.generated_atlas import read_provenance
    from loaders.atlases.soma_writer import read_soma_provenance

    found, expected = read_soma_provenance(experiment), read_provenance(atlas)
    for name in (*SHAPING, "schema"):
        if found.get(name) != expected.get(name):
            raise FileExistsError(
                f"{experiment} is not the experiment of {atlas}: their {name} differs. Delete the "
                "experiment, or move it away, and run the same again."
            )
