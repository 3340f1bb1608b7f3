"""What a worker does for a generated atlas: draw or decode chunks, then assemble shards of it.

A worker is a plain object in this process or a Ray actor (crew.py); the bytes do not depend on which.
"""

import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .chunk_cells import decode_chunk, draw_chunk
from .plan import Chunk, Plan

if TYPE_CHECKING:
    from cfgen_scale.model import CFGen
    from cfgen_scale.types import GeneratedCells
    from loaders.atlases.assembly import Assembly, Task
    from loaders.atlases.generated_atlas import GeneratedAtlas
    from loaders.atlases.writer import PartialAtlas


AT_ONCE = 2  # jobs that a worker is given: the next chunk is drawn while the last one is written


@dataclass(frozen=True)
class Receipt:
    """A job was done: the cells, or the bytes, that it was about, and the process that did it."""

    amount: int
    pid: int


@dataclass(frozen=True)
class AtlasWorker:
    """Draws the chunks of ``plan`` with the model at ``model_path``, or decodes them from the latents in the
    generated atlas ``latents``. The model is loaded when the first chunk comes: to assemble needs none.

    Its methods may be called by ``AT_ONCE`` threads: while one encodes a chunk and flushes it to the disk,
    another draws the next. There are never more chunks than threads in memory."""

    model_path: Path
    plan: Plan
    partial: "PartialAtlas"
    latents: Path | None = None
    _drawing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def ready(self) -> None:
        """Nothing: an actor that answers has found its place in the cluster."""

    def write(self, chunk: Chunk) -> Receipt:
        """Make and write the cells of one chunk. It is there, and whole, when this returns."""
        with self._drawing:
            cells = self._cells(chunk)
        self.partial.write_chunk(chunk.index, cells, self._model.schema, group=chunk.groups)
        return Receipt(chunk.cells, os.getpid())

    def assemble(self, task: "Task", assembly: "Assembly") -> Receipt:
        """Write the shards of one task; one at a time, since the compressor's settings are the process's."""
        with self._drawing:
            assembly.run(task)
        return Receipt(task.bytes, os.getpid())

    def _cells(self, chunk: Chunk) -> "GeneratedCells":
        if self.latents is None:
            return draw_chunk(self._model, self.plan, chunk, self.partial.path)
        return decode_chunk(self._model, self.plan, chunk, self._stored(chunk))

    def _stored(self, chunk: Chunk) -> "GeneratedCells":
        from cfgen_scale.types import GeneratedCells

        stored = self._atlas.read_latents(slice(chunk.first_cell, chunk.first_cell + chunk.cells))
        return GeneratedCells((), stored.labels, stored.log_size_factor, stored.latent)

    @cached_property
    def _model(self) -> "CFGen":
        from cfgen_scale.model import CFGen

        return CFGen.load(self.model_path, self.plan.device)

    @cached_property
    def _atlas(self) -> "GeneratedAtlas":
        from loaders.atlases.generated_atlas import GeneratedAtlas

        assert self.latents is not None
        return GeneratedAtlas.open(self.latents)
