"""The contents of a generated atlas against its schema: features, obs, and slabs of cells and of counts."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import IntArray

from .generated_atlas import GeneratedAtlas
from .generated_layout import (
    CHUNK_COLUMN,
    LATENT_KEY,
    NAMES,
    CellSlab,
    annotations_path,
    counts_path,
    names_of_cells,
    obs_frame,
)
from .problems import Problem

COUNTS_AT_ONCE = 2**22
AGAIN = "Generate the atlas again"


def check_schema(atlas: GeneratedAtlas) -> Iterator[Problem]:
    """Features, obs columns and categories, and the shapes of all arrays, against the schema."""
    schema = atlas.schema
    expected = obs_frame(CellSlab.empty(0, 0, schema, 0), schema, atlas.n_cells)
    columns = list(cast(list[str], atlas.root["obs"].attrs["column-order"]))
    if columns != list(expected):
        yield Problem("schema", f"obs has the columns {columns} instead of {list(expected)}", AGAIN)
        return
    for covariate in schema.covariates:
        found = tuple(atlas.array(f"obs/{covariate.name}/categories")[...])
        yield from _same(found, covariate.categories, f"categories of obs column {covariate.name!r}")
    for column in [NAMES, *expected]:
        path = f"obs/{column}/codes" if column in [c.name for c in schema.covariates] else f"obs/{column}"
        yield from _shape(atlas, path, (atlas.n_cells,))
    yield from _shape(
        atlas, f"obsm/{LATENT_KEY}", (atlas.n_cells, *atlas.array(f"obsm/{LATENT_KEY}").shape[1:])
    )
    for m, modality in enumerate(schema.modalities):
        if atlas.content == "counts":
            yield from _shapes_of_counts(atlas, m)
        if atlas.content == "counts" or len(schema.modalities) == 1:
            var = f"{annotations_path(schema, m, atlas.content)}/var/{NAMES}".lstrip("/")
            yield from _same(
                tuple(atlas.array(var)[...]), modality.features, f"features of {modality.name!r}"
            )


def _shapes_of_counts(atlas: GeneratedAtlas, m: int) -> Iterator[Problem]:
    path, n_features = counts_path(atlas.schema, m), len(atlas.schema.modalities[m].features)
    shape = list(cast(list[int], atlas.root[path].attrs["shape"]))
    if shape != [atlas.n_cells, n_features]:
        yield Problem("shape", f"{path} is {shape} and not {[atlas.n_cells, n_features]}", AGAIN)
    yield from _shape(atlas, f"{path}/indptr", (atlas.n_cells + 1,))
    yield from _shape(atlas, f"{path}/indices", atlas.array(f"{path}/data").shape)
    kind = atlas.array(f"{path}/data").dtype.kind
    if kind not in "iu":
        yield Problem("shape", f"{path}/data holds no integers", AGAIN)


def _shape(atlas: GeneratedAtlas, path: str, expected: tuple[int, ...]) -> Iterator[Problem]:
    shape = tuple(atlas.array(path).shape)
    if shape != expected:
        yield Problem("shape", f"{path} is {shape} and not {expected}", AGAIN)


def _same(found: Sequence[str], expected: Sequence[str], what: str) -> Iterator[Problem]:
    if tuple(found) == tuple(expected):
        return
    pairs = zip(found, expected, strict=False)
    place = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(found), len(expected)))
    yield Problem(
        "schema",
        f"the {what} are not those of the schema: {len(found)} and {len(expected)}, the first that differs "
        f"is number {place}",
        AGAIN,
    )


def check_cells(atlas: GeneratedAtlas, slab: slice) -> tuple[list[Problem], dict[int, int]]:
    """What is wrong with the cells of a slab; and how many of them each group has."""
    cells = atlas.read_cells(slab)
    names = np.asarray(atlas.array(f"obs/{NAMES}")[slab], dtype=object)
    wrong = {
        "names": names != names_of_cells(slab.start, len(names), atlas.n_cells),
        "latents": ~np.isfinite(cells.latent).all(axis=1),
        "chunks": np.diff(cells.chunk, prepend=_chunk_before(atlas, slab.start)) < 0,
    }
    for k, covariate in enumerate(atlas.schema.covariates):
        codes = cells.labels[:, k]
        wrong[f"labels of {covariate.name!r}"] = (codes < -1) | (codes >= len(covariate.categories))
    for s, factor in enumerate(atlas.schema.size_factor_columns):
        expected = np.exp(cells.log_size_factor[:, s].astype(np.float64)).astype(np.float32)
        wrong[factor] = ~np.isfinite(expected) | (atlas.array(f"obs/{factor}")[slab] != expected)
    problems = [
        Problem(what, f"first in cell {slab.start + int(np.argmax(at))}", AGAIN)
        for what, at in wrong.items()
        if at.any()
    ]
    groups, times = np.unique(cells.group, return_counts=True)
    return problems, dict(zip(groups.tolist(), times.tolist(), strict=True))


def _chunk_before(atlas: GeneratedAtlas, first: int) -> int:
    return int(atlas.array(f"obs/{CHUNK_COLUMN}")[max(first - 1, 0)])


def check_counts(atlas: GeneratedAtlas, m: int, slab: slice) -> list[Problem]:
    """The counts of a slab of cells: row pointers rise to the number of counts; whole numbers from 1 on, or 1
    where they are binarised; features in range, ascending in a row."""
    path, modality = counts_path(atlas.schema, m), atlas.schema.modalities[m]
    pointers = atlas.array(f"{path}/indptr")[slab.start : slab.stop + 1].astype(np.int64)
    nnz = int(atlas.array(f"{path}/data").shape[0])
    wrong = _check_pointers(pointers, nnz, begins=slab.start == 0, ends=slab.stop == atlas.n_cells)
    if wrong:
        return [Problem(f"row pointers of {modality.name!r}", f"{wrong}, cells {slab.start} on", AGAIN)]
    largest = 1 if modality.likelihood == "bernoulli" else None
    problems: dict[str, Problem] = {}
    for begin in range(int(pointers[0]), int(pointers[-1]), COUNTS_AT_ONCE):
        end = min(begin + COUNTS_AT_ONCE, int(pointers[-1]))
        before = begin - 1 if begin > pointers[0] else begin
        data = atlas.array(f"{path}/data")[begin:end]
        indices = atlas.array(f"{path}/indices")[before:end]
        at_fault = {
            "counts": (begin, (data < 1) if largest is None else (data != largest)),
            "features out of range": (before, (indices < 0) | (indices >= len(modality.features))),
            "order of features": (before + 1, _descents(indices, before, pointers)),
        }
        for what, (first, places) in at_fault.items():
            if places.any():
                kind = f"{what} of {modality.name!r}"
                cell = slab.start + _row_of(pointers, first + int(np.argmax(places)))
                problems.setdefault(kind, Problem(kind, f"first in cell {cell}", AGAIN))
    return list(problems.values())


def _check_pointers(pointers: IntArray, nnz: int, *, begins: bool, ends: bool) -> str:
    """What is wrong with the row pointers of a slab, or nothing."""
    if (np.diff(pointers) < 0).any() or pointers[0] < 0 or pointers[-1] > nnz:
        return f"they do not rise within 0 and {nnz}"
    if begins and pointers[0] != 0:
        return f"they begin at {pointers[0]} and not at 0"
    if ends and pointers[-1] != nnz:
        return f"they end at {pointers[-1]} and not at {nnz}"
    return ""


def _descents(indices: NDArray[np.integer], first: int, pointers: IntArray) -> NDArray[np.bool_]:
    """Where an index, number ``first`` + 1 on, does not exceed the one before, which is in the same row."""
    descents = indices[1:] <= indices[:-1]
    inside = pointers[(pointers > first) & (pointers < first + len(indices))]
    descents[inside - first - 1] = False
    return descents


def _row_of(pointers: IntArray, place: int) -> int:
    return int(np.searchsorted(pointers, place, side="right")) - 1
