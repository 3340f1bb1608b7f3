"""The cells of one chunk: what is told to each, and what the model draws. All draws are keyed by
(seed, chunk index), so that a chunk is the same whoever draws it, and when."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .copied_rows import read_rows
from .plan import Chunk, Plan
from .request import Group

if TYPE_CHECKING:
    from cfgen_scale.model import CFGen
    from cfgen_scale.types import AtlasSchema, GeneratedCells, IntArray


def draw_chunk(model: "CFGen", plan: Plan, chunk: Chunk, directory: Path) -> "GeneratedCells":
    """Draw a chunk, its latents alone if the plan says so; ``directory`` holds the rows that are copied."""
    with _one_thread():
        labels, log_size_factor = told_to_cells(model, plan, chunk, directory)
        latents = model.draw_latents(
            labels,
            guidance=plan.weights[chunk.parts[0].group],
            seed=plan.seed,
            index=chunk.index,
            ode=plan.ode,
            log_size_factor=log_size_factor,
        )
    return latents if plan.content == "latents" else decode_chunk(model, plan, chunk, latents)


def decode_chunk(model: "CFGen", plan: Plan, chunk: Chunk, latents: "GeneratedCells") -> "GeneratedCells":
    """Counts of a chunk whose latents are drawn: the same whether they were stored in between or not."""
    with _one_thread():
        return model.decode_cells(latents, seed=plan.seed, index=chunk.index)


def told_to_cells(
    model: "CFGen", plan: Plan, chunk: Chunk, directory: Path
) -> tuple["IntArray", NDArray[np.float32] | None]:
    """Labels (B, K), -1 = untold, and log size factors (B, S), or None where the model is to draw them."""
    group = plan.request.groups[chunk.parts[0].group]
    if group.copied is not None:
        # A group that copies is the only one: its rows are those of the atlas.
        rows = slice(chunk.first_cell, chunk.first_cell + chunk.cells)
        copied, sizes = read_rows(directory, group, rows)
        labels = labels_beside(copied, model, group, seed=plan.seed, index=chunk.index)
        return labels, _log_size_factors(sizes, chunk, plan, model.schema)
    labels = np.empty((chunk.cells, len(model.schema.covariates)), dtype=np.int64)
    for part in chunk.parts:
        group = plan.request.groups[part.group]
        labels[part.of_chunk] = model.draw_labels(
            part.cells, group.told, group.untold, seed=plan.seed, index=chunk.index, first=part.begin
        )
    sizes = np.empty((chunk.cells, 0), dtype=np.float32)
    return labels, _log_size_factors(sizes, chunk, plan, model.schema)


def labels_beside(copied: "IntArray", model: "CFGen", group: Group, *, seed: int, index: int) -> "IntArray":
    """Labels (n, K) of cells of which ``copied`` (n, attributes copied) are known, -1 = untold.

    Attributes that are not copied, told or untold are drawn together given the others of the same cell.
    Raises SchemaError where no training cell has them.
    """
    from cfgen_scale.labels import uniform_of_cells

    # The draw of a cell is that of its place, whatever is copied to it and to others.
    uniform = uniform_of_cells(range(len(copied)), seed, index)
    labels = np.empty((len(copied), len(model.schema.covariates)), dtype=np.int64)
    different, which = np.unique(copied, axis=0, return_inverse=True)
    in_order = np.argsort(which, kind="stable")
    for codes, cells in zip(different, np.split(in_order, np.cumsum(np.bincount(which))[:-1]), strict=True):
        told, untold = in_words(codes, group, model.schema)
        labels[cells] = model.frequencies.choose(uniform[cells], model.schema, told=told, untold=untold)
    return labels


def in_words(
    codes: "IntArray", group: Group, schema: "AtlasSchema"
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What is told and untold to a cell whose copied labels (attributes copied,) are these."""
    assert group.copied is not None
    told, untold = dict(group.told), list(group.untold)
    for name, code in zip(group.copied.attributes, codes.tolist(), strict=True):
        if code < 0:
            untold.append(name)
        else:
            told[name] = schema.covariate(name).categories[code]
    return told, tuple(untold)


def _log_size_factors(
    copied: NDArray[np.float32], chunk: Chunk, plan: Plan, schema: "AtlasSchema"
) -> NDArray[np.float32] | None:
    """(B, S) in the order of the schema: copied (B, modalities copied), or drawn from what the groups ask."""
    import torch

    from cfgen_scale.counter_draws import CounterDraws

    groups = [plan.request.groups[part.group] for part in chunk.parts]
    if not (groups[0].size_factors or copied.size):
        return None
    of_copied = groups[0].copied.size_factors if groups[0].copied else ()
    names = [modality.name for modality in schema.counted]
    draws = CounterDraws(plan.seed, "generation", chunk.index)
    noise = draws.normal("size factors asked for", torch.arange(chunk.cells), len(names)).numpy()
    of_part = np.repeat(np.arange(len(groups)), [part.cells for part in chunk.parts])
    columns: list[NDArray[np.floating[Any]]] = []
    for s, name in enumerate(names):
        if name in of_copied:
            columns.append(copied[:, of_copied.index(name)])
        else:
            asked = [group.size_factors[name] for group in groups]
            mean, sd = np.array([(size.log_mean, size.log_sd) for size in asked]).T[:, of_part]
            columns.append(mean + sd * noise[:, s])
    return np.stack(columns, axis=1).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One intra-op thread: sums are split by threads, so that their number would change the last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
