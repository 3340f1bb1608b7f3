"""From a plan to a finished atlas: refuse what is another's, write the missing chunks, assemble, complete.

The same for cells that are drawn and for cells that are decoded from stored latents; the same call again
goes on where the last one was stopped, and makes again what a finished atlas has lost.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chunk_workers import AtlasWorker
from .crew import Crew, crew_of
from .plan import Plan, differences
from .progress import follow, say
from .shaping import SHAPING, versions
from .soma_beside import soma_is_there, write_soma_beside

if TYPE_CHECKING:
    from cfgen_scale.types import AtlasSchema, IntArray
    from loaders.atlases.assembly import Assembly
    from loaders.atlases.writer import PartialAtlas

Provenance = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class AtlasToWrite:
    """An atlas that is to lie at ``out``: its plan, its schema and where its model is from.

    model       free JSON that travels with the model
    registered  name and version of the model in a registry, where it was found in one
    Neither decides whether an atlas is the same one; what the first run said of them stays.
    """

    out: Path
    plan: Plan
    schema: "AtlasSchema"
    model: Mapping[str, Any] = field(default_factory=dict)
    registered: Mapping[str, Any] = field(default_factory=dict)

    @property
    def partial(self) -> "PartialAtlas":
        """The work directory beside it."""
        from loaders.atlases.writer import PartialAtlas

        return PartialAtlas.beside(self.out)

    def is_finished(self) -> bool:
        """Whether it is there with all its files. Another atlas there, or chunks of another plan or of
        versions that may draw other cells, raise FileExistsError."""
        from loaders.atlases.restoring import lost_of

        if not self.out.exists():
            self._require_same(self._begun() or {}, "plan", "versions")
            return False
        has_lost = bool(lost_of(self.out))
        self._require_same(self._said(has_lost), *(("plan", "versions") if has_lost else ("plan",)))
        return not has_lost

    def begin(self, machine: Mapping[str, str]) -> Provenance:
        """Write the plan, unless there is one, or take up what was begun, or finished and lost in part.

        Returns the provenance that the atlas will have. Raises FileExistsError as `is_finished`, and where
        cells were drawn on a machine that draws other ones.
        """
        from loaders.atlases.restoring import restore

        asked: Provenance = {
            "plan": self.plan.to_json(),
            "versions": versions(),
            "machine": machine,
            "model": self.model,
            "registered": self.registered,
        }
        if self.out.exists():
            found: Provenance | None = self._said(True) or asked
        else:
            found = self._begun()
        if found is None:
            self.partial.clear()
            self.partial.begin(asked)
            return asked
        self._require_same(found, *SHAPING, machine=machine)
        if self.out.exists():
            content = self.plan.content
            restore(self.partial, self.out, schema=self.schema, provenance=found, content=content)
        return found

    def _begun(self) -> Provenance | None:
        """The plan of the chunks that are there; None where there is no chunk yet."""
        found = self.partial.read_plan()
        return found if self.partial.has_work() else None

    def _said(self, is_damaged: bool) -> dict[str, Any]:
        """The provenance in the atlas that is there; {} where it is among what was lost."""
        from loaders.atlases.assembly import read_provenance

        try:
            provenance = read_provenance(self.out)
        except (OSError, ValueError, RuntimeError):
            if not is_damaged:
                raise
            return {}
        del provenance["schema"]
        return provenance

    def _require_same(self, found: Provenance, *names: str, machine: Mapping[str, str] | None = None) -> None:
        asked = {"plan": self.plan.to_json(), "versions": versions(), "machine": machine or {}}
        other = [what for name in names if name in found for what in differences(asked[name], found[name])]
        if other and self.out.exists():
            raise FileExistsError(
                f"{self.out} is an atlas of {', '.join(other)}. Choose another path, or delete that atlas "
                "first."
            )
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
    before: Callable[[Path], None],
    to_soma: bool = False,
) -> Path:
    """Do what is missing of an atlas and complete it; one that is finished is left as it is.

    ray_workers  actors; 0: this process alone
    before       puts into the work directory what the chunks need, each time
    to_soma      then write what is missing of its TileDB-SOMA experiment (soma_beside.py)

    Raises FileExistsError for another atlas (`AtlasToWrite`), RuntimeError if another process is at it, and
    OSError where the disk is full: the same call goes on from there when it is not.
    """
    partial = atlas.partial
    # Asked twice: a finished atlas may lie where nothing can be written, and another process may finish it.
    if not (atlas.is_finished() and not partial.path.exists()):
        with partial.held():
            if atlas.is_finished():
                # Killed between the renaming of the atlas and the removal of its chunks.
                partial.remove()
            else:
                with crew_of(worker, workers=ray_workers, progress=progress) as crew:
                    provenance = atlas.begin(crew.machine())
                    before(partial.path)
                    _write(atlas, crew, provenance, progress)
                    if to_soma:
                        write_soma_beside(atlas.out, crew, progress=progress)
                    return atlas.out
    say(f"{atlas.out} is complete already.", progress)
    if to_soma and not soma_is_there(atlas.out):
        # Slabs need no GPU.
        on_cpus = replace(worker, plan=replace(worker.plan, device="cpu"))
        with crew_of(on_cpus, workers=ray_workers, progress=progress) as crew:
            write_soma_beside(atlas.out, crew, progress=progress)
    return atlas.out


def _write(atlas: AtlasToWrite, crew: Crew, provenance: Provenance, progress: bool) -> None:
    if atlas.partial.was_finished:
        needed: IntArray | None = _assembly(atlas, provenance).chunks_to_read()
    else:
        needed = None
    _write_missing(crew, atlas, needed, progress)
    assembly = _assembly(atlas, provenance)
    _assemble_missing(crew, atlas.plan, assembly, progress)
    assembly.complete(atlas.out)


def _assembly(atlas: AtlasToWrite, provenance: Provenance) -> "Assembly":
    from loaders.atlases.assembly import Assembly

    return Assembly.of(
        atlas.partial,
        n_chunks=atlas.plan.n_chunks,
        schema=atlas.schema,
        provenance=provenance,
        content=atlas.plan.content,
    )


def _write_missing(crew: Crew, atlas: AtlasToWrite, needed: "IntArray | None", progress: bool) -> None:
    """Write the chunks that are not there, of those ``needed`` or of all."""
    import numpy as np

    plan = atlas.plan
    done = np.full(plan.n_chunks, needed is not None)
    done[needed if needed is not None else []] = False
    done[atlas.partial.chunks_there()] = True
    cells = sum(chunk.cells for chunk in plan.chunks() if done[chunk.index])
    if cells:
        say(f"{cells:,} of {plan.n_cells:,} cells are there already.", progress)
    receipts = crew.write(chunk for chunk in plan.chunks() if not done[chunk.index])
    what = "decoding" if crew.decodes else "generating"
    follow(receipts, what, plan.n_cells, progress, done=cells, whole=plan.n_cells)


def _assemble_missing(crew: Crew, plan: Plan, assembly: "Assembly", progress: bool) -> None:
    tasks = assembly.tasks()
    if tasks:
        crew.leave_gpus(len(tasks))
    done = assembly.n_bytes - sum(task.n_bytes for task in tasks)
    receipts = crew.assemble(tasks, assembly)
    follow(receipts, "assembling", plan.n_cells, progress, done=done, whole=assembly.n_bytes)
