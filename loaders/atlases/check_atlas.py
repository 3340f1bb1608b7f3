"""Whether a generated atlas is whole and says what it should: files, schema, cells, counts.

It is read once, in slabs and by a few threads, so that memory does not grow with it. Of every kind of problem
the first is told: where it is, and what to do.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..layout import SHARD_OF_CELLS, quick_codecs
from .checked_cells import check_cells, check_counts, check_schema
from .checksums import SUMS_FILE, digest, files_below, read_manifest
from .generated_atlas import GeneratedAtlas, cells_asked_for
from .problems import Problem

AGAIN = "Copy the atlas again, or delete it and generate it again"
LOST = "Copy the atlas again, or run what generated it again: it makes what is lost"
CHANGED = "Copy the atlas again, or delete that file and run what generated it again: it makes what is lost"


@dataclass(frozen=True)
class Report:
    """What a check found: problems, the first of each kind; and how much there was to check."""

    problems: tuple[Problem, ...]
    cells: int
    files: int
    bytes: int

    @property
    def ok(self) -> bool:
        return not self.problems


def check_atlas(
    path: str | Path,
    *,
    progress: bool = False,
    threads: int = 4,
) -> Report:
    """Check the generated atlas at ``path``: its manifest, then all that is in it.

    Memory is some 200 MB a thread. Raises FileNotFoundError if there is
    nothing, FileExistsError for something other than a generated atlas.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no atlas at {path}.")
    if not (path / SUMS_FILE).is_file():
        # Raises for what is no atlas at all.
        GeneratedAtlas.open(path)
    with ThreadPoolExecutor(threads) as pool, quick_codecs():
        sizes = {file: (path / file).stat().st_size for file in files_below(path)}
        problems = list(_check_files(path, sizes, pool, progress))
        atlas = _opened(path, problems)
        if atlas is not None:
            problems += check_schema(atlas)
            # Where shapes are wrong, what is in them is not looked at.
            if not any(problem.kind in ("schema", "shape") for problem in problems):
                problems += _check_contents(atlas, pool, progress)
    return Report(
        _first_of_each_kind(problems), atlas.n_cells if atlas else 0, len(sizes), sum(sizes.values())
    )


def _check_files(
    path: Path, sizes: dict[str, int], pool: ThreadPoolExecutor, progress: bool
) -> Iterator[Problem]:
    """The files against the manifest."""
    try:
        expected = {file: of.sha256 for file, of in read_manifest(path / SUMS_FILE).files.items()}
    except (FileNotFoundError, ValueError) as error:
        yield Problem("manifest", str(error), AGAIN)
        return
    for file in sorted(set(expected) - set(sizes)):
        yield Problem("missing file", f"{path / file} is not there", LOST)
    for file in sorted(set(sizes) - set(expected) - {SUMS_FILE}):
        yield Problem(
            "unknown file",
            f"{path / file} was not written by the generation",
            "Remove it, or keep in mind that the atlas was changed",
        )
    there = sorted(set(sizes) & set(expected))
    found = pool.map(lambda file: _digest_or_error(path / file), there)
    total = sum(sizes[file] for file in there)
    with tqdm(total=total, unit="B", unit_scale=True, desc="files", disable=not progress) as bar:
        for file, of_file in zip(there, found, strict=True):
            if of_file != expected[file]:
                yield Problem("changed file", f"{path / file} is not as it was written ({of_file})", CHANGED)
            bar.update(sizes[file])


def _digest_or_error(path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:
        return str(error)


def _opened(path: Path, problems: list[Problem]) -> GeneratedAtlas | None:
    """The atlas, or None and a problem more if its metadata cannot be read."""
    try:
        return GeneratedAtlas.open(path)
    except (OSError, ValueError, KeyError) as error:
        problems.append(Problem("metadata", f"{path} cannot be opened: {error}", AGAIN))
        return None


def _check_contents(atlas: GeneratedAtlas, pool: ThreadPoolExecutor, progress: bool) -> Iterator[Problem]:
    """What is said of the cells, and their counts, in slabs of cells."""
    slabs = [
        slice(i, min(i + SHARD_OF_CELLS, atlas.n_cells)) for i in range(0, atlas.n_cells, SHARD_OF_CELLS)
    ]
    modalities = range(len(atlas.schema.modalities) if atlas.content == "counts" else 0)
    works: list[Callable[[], tuple[list[Problem], Any]]] = []
    for slab in slabs:
        works.append(lambda slab=slab: check_cells(atlas, slab))  # type: ignore[misc]
        for m in modalities:
            works.append(lambda slab=slab, m=m: (check_counts(atlas, m, slab), None))  # type: ignore[misc]
    cells_of_group: dict[int, int] = {}
    bar = tqdm(total=len(works), unit=" slabs", desc="cells and counts", disable=not progress)
    with bar:
        for problems, groups in pool.map(_readable, works):
            yield from problems
            for group, cells in (groups or {}).items():
                cells_of_group[group] = cells_of_group.get(group, 0) + cells
            bar.update()
    try:
        asked = cells_asked_for(atlas.provenance)
    except ValueError as error:
        yield Problem("provenance", str(error), AGAIN)
    else:
        yield from _check_groups(cells_of_group, asked)


def _readable(work: Callable[[], tuple[list[Problem], Any]]) -> tuple[list[Problem], Any]:
    """What cannot be decoded is a problem, and not the end of the check."""
    try:
        return work()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return [Problem("unreadable", str(error) or type(error).__name__, AGAIN)], None


def _check_groups(found: dict[int, int], asked: Sequence[int]) -> Iterator[Problem]:
    for group in sorted({*found, *range(len(asked))}):
        wanted = asked[group] if 0 <= group < len(asked) else 0
        if found.get(group, 0) != wanted:
            yield Problem(
                "groups",
                f"group {group} of the request has {found.get(group, 0):,} cells, and {wanted:,} were asked "
                f"for",
                AGAIN,
            )


def _first_of_each_kind(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.kind, problem)
    return tuple(first.values())
