"""What a worker does for a generated atlas: draw or decode chunks, then assemble shards of it.

A worker is a plain object in this process or a Ray actor (crew.py); the bytes do not depend on which.
"""

import os
import socket
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .chunk_cells import decode_chunk, draw_chunk
from .model_copy import require_model
from .plan import Chunk, Plan, differences
from .shaping import machine_here

if TYPE_CHECKING:
    from cfgen_scale.model import CFGen
    from cfgen_scale.types import GeneratedCells
    from loaders.atlases.generated_atlas import GeneratedAtlas
    from loaders.atlases.writer import PartialAtlas


AT_ONCE = 2  # jobs that a worker is given: the next chunk is drawn while the last one is written


@dataclass(frozen=True)
class Receipt:
    """A job was done: the cells, or the bytes, that it was about, and the process that did it."""

    amount: int
    pid: int


class ShardTask(Protocol):
    """Something to be written of an atlas whose chunks are there."""

    @property
    def n_bytes(self) -> int:
        """How much that is."""
        ...


class ShardWriter[Task](Protocol):
    """What writes such tasks: an `Assembly` the shards of the Zarr, a `SlabWriter` the slabs of the SOMA."""

    def run(self, task: Task) -> None:
        """Write one."""
        ...


@dataclass(frozen=True)
class AtlasWorker:
    """Draws the chunks of ``plan`` with the model at ``model_path``, or decodes them from the latents in the
    generated atlas ``latents``. The model is loaded when the first chunk comes: to assemble needs none.
    ValueError is raised then if it is not the model of the plan, RuntimeError if this machine would draw
    other cells than the one on which the atlas was begun.

    Its methods may be called by ``AT_ONCE`` threads: while one encodes a chunk and flushes it to the disk,
    another draws the next. There are never more chunks than threads in memory."""

    model_path: Path
    plan: Plan
    partial: "PartialAtlas"
    latents: Path | None = None
    _drawing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @property
    def decodes(self) -> bool:
        """Whether chunks are decoded from stored latents."""
        return self.latents is not None

    def ready(self) -> None:
        """Nothing: an actor that answers has found its place in the cluster."""

    def machine(self) -> dict[str, str]:
        """What decides the last bits of what is drawn here."""
        return machine_here(self.plan.device)

    def write(self, chunk: Chunk) -> Receipt:
        """Make and write the cells of one chunk. It is there, and whole, when this returns."""
        with self._drawing:
            cells = self._cells(chunk)
        self.partial.write_chunk(chunk.index, cells, self._model.schema, group=chunk.groups)
        return Receipt(chunk.cells, os.getpid())

    def assemble[Task: ShardTask](self, task: Task, writer: ShardWriter[Task]) -> Receipt:
        """Write one task; one at a time, since the compressor's settings are the process's."""
        with self._drawing:
            writer.run(task)
        return Receipt(task.n_bytes, os.getpid())

    def _cells(self, chunk: Chunk) -> "GeneratedCells":
        if self.latents is None:
            return draw_chunk(self._model, self.plan, chunk, self.partial.path)
        return decode_chunk(self._model, self.plan, chunk, self._stored(chunk))

    def _stored(self, chunk: Chunk) -> "GeneratedCells":
        from cfgen_scale.types import GeneratedCells

        stored = self._atlas.read_cells(slice(chunk.first_cell, chunk.first_cell + chunk.cells))
        return GeneratedCells((), stored.labels, stored.log_size_factor, stored.latent)

    @cached_property
    def _model(self) -> "CFGen":
        from cfgen_scale.model import CFGen

        self._require_same_machine()
        model = CFGen.load(self.model_path, self.plan.device)
        require_model(self.model_path, model.digest, self.plan.model_digest)
        return model

    def _require_same_machine(self) -> None:
        begun = self.partial.read_plan()
        assert begun is not None, "the plan comes before the chunks"
        other = differences(self.machine(), begun["machine"])
        if other:
            raise RuntimeError(
                f"the machine {socket.gethostname()} draws other cells than the one on which this atlas was "
                f"begun: {', '.join(other)}. Generate on machines of one kind."
            )

    @cached_property
    def _atlas(self) -> "GeneratedAtlas":
        from loaders.atlases.generated_atlas import GeneratedAtlas

        assert self.latents is not None
        return GeneratedAtlas.open(self.latents)
