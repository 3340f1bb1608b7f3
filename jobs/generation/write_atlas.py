"""From a plan to a finished atlas: refuse what is another's, write the missing chunks, assemble, complete.

The same for cells that are drawn and for cells that are decoded from stored latents; the same call again
goes on where the last one was stopped.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chunk_workers import AtlasWorker, Receipt
from .crew import Crew, crew_of
from .plan import Chunk, Plan, differences

if TYPE_CHECKING:
    from cfgen_scale.types import AtlasSchema
    from loaders.atlases.writer import PartialAtlas

SHAPING_PACKAGES = ("cfgen-scale", "torch", "numpy", "numba", "zarr", "numcodecs", "anndata")


@dataclass(frozen=True)
class AtlasToWrite:
    """An atlas that is to lie at ``out``: its plan, its schema and where its model is from (free JSON)."""

    out: Path
    plan: Plan
    schema: "AtlasSchema"
    model_provenance: Mapping[str, Any]

    @property
    def partial(self) -> "PartialAtlas":
        """The work directory beside it."""
        from loaders.atlases.writer import PartialAtlas

        return PartialAtlas.beside(self.out)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the atlas will say of itself in uns; the plan of its chunks until then."""
        return {"plan": self.plan.to_json(), "versions": versions(), "model": dict(self.model_provenance)}

    def is_finished(self) -> bool:
        """Whether it is there. Another atlas there, or chunks of another plan, raise FileExistsError."""
        import shutil

        from loaders.atlases.assembly import read_provenance

        if not self.out.exists():
            self._require_same_plan()
            return False
        other = differences(self.plan.to_json(), read_provenance(self.out)["plan"])
        if other:
            raise FileExistsError(
                f"{self.out} is an atlas of {', '.join(other)}. Choose another path, or delete that atlas "
                "first."
            )
        # Killed between the renaming of the atlas and the removal of its chunks.
        shutil.rmtree(self.partial.path, ignore_errors=True)
        return True

    def _require_same_plan(self) -> None:
        """Chunks of another plan, or of versions that may draw other cells, are not mixed with new ones."""
        found, asked = self.partial.read_plan(), self.provenance
        if found is None:
            return
        other = differences(asked["plan"], found["plan"]) + differences(asked["versions"], found["versions"])
        if other:
            raise FileExistsError(
                f"{self.partial.path} holds an unfinished atlas of {', '.join(other)}. Finish it with the "
                "settings it was begun with, choose another path, or delete that directory."
            )


def write_atlas(
    atlas: AtlasToWrite,
    worker: AtlasWorker,
    *,
    ray_workers: int,
    progress: bool,
    before: Callable[[Path], None] = lambda directory: None,
) -> Path:
    """Do what is missing of an atlas that is not finished, and complete it.

    ray_workers  actors; 0: this process alone
    before       puts into the work directory what the chunks need, each time

    Raises RuntimeError if another process is at it, OSError where the disk is full: the same call goes on
    from there when it is not.
    """
    from loaders.atlases.assembly import Assembly

    plan, partial = atlas.plan, atlas.partial
    with partial.held():
        partial.begin(atlas.provenance)
        before(partial.path)
        with crew_of(worker, workers=ray_workers) as crew:
            what = "decoding" if worker.latents else "generating"
            _write_missing(crew, plan, partial, what, progress)
            assembly = Assembly.of(
                partial,
                n_chunks=plan.n_chunks,
                schema=atlas.schema,
                provenance=atlas.provenance,
                content=plan.content,
            )
            _assemble_missing(crew, plan, assembly, progress)
        return Path(assembly.complete(atlas.out))


def _write_missing(crew: Crew, plan: Plan, partial: "PartialAtlas", what: str, progress: bool) -> None:
    import numpy as np

    there = np.zeros(plan.n_chunks, dtype=bool)
    there[partial.chunks_there()] = True
    done = sum(chunk.cells for chunk in plan.chunks() if there[chunk.index])
    if done:
        say(f"{done:,} of {plan.n_cells:,} cells are there already.", progress)
    missing: Iterator[Chunk] = (chunk for chunk in plan.chunks() if not there[chunk.index])
    receipts = crew.run("write", missing)
    _follow(receipts, what, plan.n_cells, progress, done=done, whole=plan.n_cells)


def _assemble_missing(crew: Crew, plan: Plan, assembly: Any, progress: bool) -> None:
    tasks = assembly.tasks()
    if tasks:
        crew.leave_gpus(len(tasks))
    done = assembly.bytes - sum(task.bytes for task in tasks)
    receipts = crew.run("assemble", tasks, assembly)
    _follow(receipts, "assembling", plan.n_cells, progress, done=done, whole=assembly.bytes)


def _follow(
    receipts: Iterable[Receipt], what: str, n_cells: int, progress: bool, *, done: int, whole: int
) -> None:
    """A bar in cells, with their rate and the time that is left, of receipts in another measure."""
    from tqdm import tqdm

    begun = n_cells * done // whole
    with tqdm(total=n_cells, initial=begun, unit=" cells", desc=what, disable=not progress) as bar:
        for receipt in receipts:
            done += receipt.amount
            bar.update(n_cells * done // whole - begun)
            begun = n_cells * done // whole


def versions() -> dict[str, str]:
    """Of the packages that decide bytes."""
    from importlib.metadata import PackageNotFoundError, version

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from the source tree, as on a cluster
            return "not installed"

    return {package: version_of(package) for package in SHAPING_PACKAGES}


def say(text: str, progress: bool) -> None:
    """Tell the user on standard error, where progress is shown."""
    if progress:
        print(text, file=sys.stderr)
