"""From a request to numbered chunks: pure arithmetic, the same for any number of workers."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .request import Request, RequestError
from .request_check import check_request

if TYPE_CHECKING:
    from cfgen_scale.ode import OdeConfig
    from cfgen_scale.types import AtlasSchema
    from loaders.atlases.chunk_files import Content

PLAN_VERSION = 3
# Small enough that the dense means of a chunk (512 x 20,000 float32 = 41 MB) stay near the caches of a CPU
# and that a few thousand cells already occupy several workers; on a GPU large enough to occupy it.
CHUNK_CELLS = {"cpu": 512, "cuda": 8_192}


@dataclass(frozen=True)
class Part:
    """So many cells of a chunk, from its cell ``begin`` on, that are of one group."""

    group: int
    begin: int
    cells: int

    @property
    def of_chunk(self) -> slice:
        return slice(self.begin, self.begin + self.cells)


@dataclass(frozen=True)
class Chunk:
    """Cells that are drawn together, of one group or of several that follow one another. Their random numbers
    are keyed by (seed, index)."""

    index: int
    first_cell: int
    parts: tuple[Part, ...]

    @property
    def cells(self) -> int:
        """How many."""
        return self.parts[-1].of_chunk.stop

    @property
    def groups(self) -> NDArray[np.int32]:
        """The group of each cell (B,)."""
        of_parts = np.array([part.group for part in self.parts], dtype=np.int32)
        return np.repeat(of_parts, [part.cells for part in self.parts])


@dataclass(frozen=True)
class Plan:
    """All that the bytes of a generated atlas depend on, besides package versions and instruction set.

    request        the groups asked for
    weights        guidance weights (K,) of each group, resolved against the schema
    model_digest   of the model that draws the cells; its schema is ``schema_digest``
    seed           of all random numbers
    chunk_cells    largest number of cells of a chunk; the cells of a chunk depend on it
    ode            how the flow is integrated
    device         kind of device, cpu or cuda: they draw other numbers
    content        counts, or latents alone, which can be decoded to the same counts later
    """

    request: Request
    weights: tuple[tuple[float, ...], ...]
    model_digest: str
    schema_digest: str
    seed: int
    chunk_cells: int
    ode: "OdeConfig"
    device: str
    content: "Content" = "counts"

    @property
    def n_cells(self) -> int:
        """Cells of the atlas."""
        return self.request.n_cells

    @property
    def n_chunks(self) -> int:
        """Chunks of all groups."""
        groups = self.request.groups
        return sum(-(-sum(groups[g].cells for g in run) // self.chunk_cells) for run in self._runs())

    def chunks(self) -> Iterator[Chunk]:
        """The chunks in the order of their cells. Groups that follow one another share chunks if they can be
        drawn together; the last chunk of such a run may be shorter."""
        index = first_cell = 0
        for run in self._runs():
            for parts in self._filled(run):
                chunk = Chunk(index, first_cell, parts)
                yield chunk
                index += 1
                first_cell += chunk.cells

    def _runs(self) -> Iterator[list[int]]:
        """Places of groups in the request that follow one another and can be drawn together: of the same
        weights, their size factors all drawn by the model or all asked for."""
        groups = self.request.groups
        for _, run in groupby(range(len(groups)), lambda g: (self.weights[g], bool(groups[g].size_factors))):
            yield list(run)

    def _filled(self, run: list[int]) -> Iterator[tuple[Part, ...]]:
        """The parts of each chunk of a run: as many cells as it can have, but for the last."""
        parts: list[Part] = []
        room = self.chunk_cells
        for number in run:
            left = self.request.groups[number].cells
            while left:
                cells = min(left, room)
                parts.append(Part(number, self.chunk_cells - room, cells))
                left, room = left - cells, room - cells
                if not room:
                    yield tuple(parts)
                    parts, room = [], self.chunk_cells
        if parts:
            yield tuple(parts)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "version": PLAN_VERSION,
            "model": self.model_digest,
            "schema": self.schema_digest,
            "seed": self.seed,
            "chunk_cells": self.chunk_cells,
            "ode": asdict(self.ode),
            "device": self.device,
            "content": self.content,
            "request": self.request.to_json(),
            "weights": [list(w) for w in self.weights],
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Plan":
        """The inverse of ``to_json``. Raises RequestError for the plan of another version."""
        from cfgen_scale.ode import OdeConfig

        if document.get("version") != PLAN_VERSION:
            raise RequestError(
                f"the plan is of version {document.get('version')}; this program reads {PLAN_VERSION}. "
                "Use the release that wrote it."
            )
        return Plan(
            request=Request.from_json(document["request"]),
            weights=tuple(map(tuple, document["weights"])),
            model_digest=document["model"],
            schema_digest=document["schema"],
            ode=OdeConfig(**document["ode"]),
            **{name: document[name] for name in ("seed", "chunk_cells", "device", "content")},
        )

    @property
    def digest(self) -> str:
        """sha256 of the plan's canonical JSON, as hex."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def make_plan(
    request: Request,
    schema: "AtlasSchema",
    *,
    model_digest: str,
    ode: "OdeConfig",
    seed: int = 0,
    chunk_cells: int | None = None,
    device: str = "cpu",
    content: "Content" = "counts",
) -> Plan:
    """The plan of a request, checked against the schema.

    ``chunk_cells`` is by default that of the device. Raises RequestError or SchemaError (see
    ``check_request``) before anything is planned.
    """
    check_request(request, schema)
    chunk_cells = CHUNK_CELLS[device] if chunk_cells is None else chunk_cells
    if chunk_cells < 1:
        raise RequestError(f"chunk_cells must be at least 1, not {chunk_cells}.")
    groups = tuple(group.with_modalities(schema) for group in request.groups)
    return Plan(
        request=replace(request, groups=groups),
        weights=tuple(group.weights(schema) for group in groups),
        model_digest=model_digest,
        schema_digest=schema.digest(),
        seed=seed,
        chunk_cells=chunk_cells,
        ode=ode,
        device=device,
        content=content,
    )


def differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What two plans (as JSON) do not have in common, one readable phrase each."""
    names = [*asked, *(name for name in found if name not in asked)]
    return [_difference(n, asked.get(n), found.get(n)) for n in names if asked.get(n) != found.get(n)]


def _difference(name: str, asked: Any, found: Any) -> str:
    if isinstance(asked, list | dict) or isinstance(found, list | dict):
        return f"another {name}"
    return f"another {name} ({_short(found)} there, {_short(asked)} asked for)"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."
