"""Whether the TileDB-SOMA experiment of a generated atlas says what the atlas says.

TileDB names its files by the time and by chance, so that no digest is kept of them: what they hold is read,
in the slabs by which it was written, and compared with the atlas.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..layout import quick_codecs
from ..stores.soma_errors import first_line
from ..stores.soma_frames import FEATURE_NAMES, JOINID
from .generated_atlas import GeneratedAtlas, read_provenance
from .generated_layout import LATENT_KEY, counts_path
from .problems import Problem
from .soma_layout import OBS, counts_array, measurement_of, obs_table
from .soma_tasks import SomaTask, all_soma_tasks
from .soma_writer import opened_with_counts, read_soma_provenance

AGAIN = "Delete the experiment, and run what generated the atlas again, with --to soma: it writes another"


def check_soma(atlas: str | Path, experiment: str | Path, *, progress: bool = False) -> tuple[Problem, ...]:
    """Compare a finished experiment with the atlas beside it; the first problem of each kind.

    Memory is that of a slab, some 0.5 GB. Raises as `opened_with_counts` of the atlas.
    """
    source = opened_with_counts(atlas)
    found: dict[str, Problem] = {}
    with quick_codecs():
        for problem in _problems(source, Path(experiment), progress):
            found.setdefault(problem.kind, problem)
    return tuple(found.values())


def _problems(source: GeneratedAtlas, experiment: Path, progress: bool) -> Iterator[Problem]:
    import tiledbsoma

    try:
        if read_soma_provenance(experiment).get("schema") != read_provenance(source.path)["schema"]:
            yield Problem("SOMA schema", f"that of {experiment} is not that of {source.path}", AGAIN)
            return
        yield from _arrays(source, experiment)
        with ExitStack() as stack:
            arrays: dict[str, Any] = {}
            for task in tqdm(all_soma_tasks(source), desc="SOMA", unit=" slabs", disable=not progress):
                if task.array not in arrays:
                    opened = tiledbsoma.open(str(experiment / task.array))
                    arrays[task.array] = stack.enter_context(opened)
                yield from _slab(task, source, arrays[task.array])
    except (FileExistsError, tiledbsoma.DoesNotExistError, tiledbsoma.SOMAError) as error:
        yield Problem("SOMA unreadable", first_line(error), AGAIN)


def _arrays(source: GeneratedAtlas, experiment: Path) -> Iterator[Problem]:
    """Features, and how much each array holds in all: what slabs cannot tell."""
    import tiledbsoma

    with tiledbsoma.Experiment.open(str(experiment)) as opened:
        held = {OBS: (int(opened.obs.count), source.n_cells)}
        for m, modality in enumerate(source.schema.modalities):
            measurement = opened.ms[measurement_of(modality.name)]
            names = measurement.var.read(column_names=[JOINID, FEATURE_NAMES[0]]).concat()
            if tuple(names[FEATURE_NAMES[0]].to_pylist()) != modality.features:
                yield Problem("SOMA features", f"those of {modality.name!r} differ", AGAIN)
            shape = (source.n_cells, len(modality.features))
            array = counts_array(modality.name)
            counts = opened.ms[measurement_of(modality.name)].X[Path(array).name]
            if tuple(counts.shape) != shape:
                yield Problem("SOMA shape", f"{array} is {counts.shape} and not {shape}", AGAIN)
            expected = int(source.array(f"{counts_path(source.schema, m)}/data").shape[0])
            held[array] = int(counts.nnz), expected
    for array, (there, expected) in held.items():
        if there != expected:
            yield Problem("SOMA size", f"{array} holds {there:,} entries and not {expected:,}", AGAIN)


def _slab(task: SomaTask, source: GeneratedAtlas, array: Any) -> Iterator[Problem]:
    """Whether one slab is as in the atlas."""
    differs = {"obs": _obs_differs, "latents": _latents_differ, "counts": _counts_differ}[task.kind]
    if differs(task, source, array):
        where = f"{task.array}, cells {task.begin:,} to {task.end - 1:,}: they are not as in the atlas"
        yield Problem(f"SOMA {task.kind}", where, AGAIN)


def _obs_differs(task: SomaTask, source: GeneratedAtlas, array: Any) -> bool:
    expected = obs_table(source.read_cells(slice(task.begin, task.end)), source)
    found = array.read(coords=(slice(task.begin, task.end - 1),)).concat()
    # As words: the codes of categories and the width of text are TileDB's own.
    return any(
        name not in found.column_names or found[name].to_pylist() != expected[name].to_pylist()
        for name in expected.column_names
    )


def _latents_differ(task: SomaTask, source: GeneratedAtlas, array: Any) -> bool:
    found = array.read((slice(task.begin, task.end - 1), slice(None))).to_numpy()
    return not np.array_equal(found, source.array(f"obsm/{LATENT_KEY}")[task.begin : task.end])


def _counts_differ(task: SomaTask, source: GeneratedAtlas, array: Any) -> bool:
    path = counts_path(source.schema, task.modality)
    pointers = source.array(f"{path}/indptr")[task.begin : task.end + 1].astype(np.int64)
    counts = slice(int(pointers[0]), int(pointers[-1]))
    table = array.read(coords=(slice(task.begin, task.end - 1),)).tables().concat()
    if len(table) != counts.stop - counts.start:
        return True
    rows, columns, data = (table[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
    order = np.lexsort((columns, rows))
    return not (
        np.array_equal(rows[order], np.repeat(np.arange(task.begin, task.end), np.diff(pointers)))
        and np.array_equal(columns[order], source.array(f"{path}/indices")[counts])
        and np.array_equal(data[order], source.array(f"{path}/data")[counts])
    )
