"""The TileDB-SOMA experiment of a generated atlas lies beside it: ``atlas.soma`` for ``atlas.zarr``."""

from pathlib import Path
from typing import TYPE_CHECKING

from .progress import follow
from .shaping import SHAPING

if TYPE_CHECKING:
    from .crew import Crew


def soma_of(atlas: str | Path) -> Path:
    """Where the experiment of an atlas lies."""
    atlas = Path(atlas).absolute()
    return atlas.with_name(f"{atlas.name.removesuffix('.zarr')}.soma")


def refuse_soma(out: str | Path, *, latents_only: bool = False) -> None:
    """Before any work: raises ValueError for latents alone, which SOMA has no place for, and FileExistsError
    where an experiment, finished or not, lies beside an atlas of which nothing is there."""
    from loaders.atlases.writer import PartialAtlas

    if latents_only:
        raise ValueError("--to soma writes counts, and --latents-only writes none. Leave one out.")
    if Path(out).exists() or PartialAtlas.beside(out).path.exists():
        return
    for path in (soma_of(out), PartialAtlas.beside(soma_of(out)).path):
        if path.exists():
            raise FileExistsError(
                f"{path} exists, and the atlas {out} does not. Choose another path, or delete it first."
            )


def soma_is_there(atlas: Path) -> bool:
    """Whether the experiment of a finished atlas is complete. Raises FileExistsError for that of another."""
    from loaders.atlases.writer import PartialAtlas

    out = soma_of(atlas)
    if not out.exists():
        return False
    _require_same(out, atlas)
    left = PartialAtlas.beside(out)
    if left.path.exists():
        # Killed between the renaming of the experiment and the removal of what it was made in.
        with left.held():
            left.remove()
    return True


def write_soma_beside(atlas: Path, crew: "Crew", *, progress: bool) -> Path:
    """Write what is missing of the experiment of a finished atlas; the same call again goes on from there.

    Raises FileExistsError for the experiment of another atlas, finished or not, RuntimeError if another
    process writes it, OSError where the disk is full.
    """
    from loaders.atlases.soma_writer import SomaAssembly
    from loaders.atlases.writer import PartialAtlas

    out = soma_of(atlas)
    if soma_is_there(atlas):
        return out
    with PartialAtlas.beside(out).held():
        if soma_is_there(atlas):
            return out
        soma = SomaAssembly.of(atlas, out)
        tasks = soma.tasks()
        crew.leave_gpus(len(tasks))
        done = soma.n_bytes - sum(task.n_bytes for task in tasks)
        receipts = crew.assemble(tasks, soma.writer)
        follow(receipts, "writing SOMA", soma.n_cells, progress, done=done, whole=soma.n_bytes)
        return soma.complete(out)


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
