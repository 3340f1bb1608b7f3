r"""The quality study: one change of settings a row, three seeds each, chosen on VALIDATION cells (METHOD 8).

    CFGEN_SCALE_DATA=/path/to/data python -m tests.benchmarks.study --jobs 2 \
        --datasets pbmc3k zheng_sorted kang

Results are appended to OUT/study.jsonl as they finish; the same command again does what is missing, and
takes up trainings that were interrupted. A row whose settings change is done again. Seeds are the outer
loop, so that after a part of the time all rows can be compared. `--rows ot guidance-2` does some, `--row
NAME KEY=VALUE ...` one that is not listed, `--list` shows all. `--table` prints what there is, `--table
--markdown` what each row changes. Test cells are not looked at, unless `--final` names rows: these are then
trained with fewer validation cells and scored on test cells, into OUT/final.jsonl.

Columns: W2 over its floor (conditional, centred, cell-weighted, unconditional; targets 1.06, 1.06, 1.06,
1.08), unbiased MMD2 (0.02), AUC of telling generated from real (0.70), KS of zeros per cell (0.08), variance
within classes over real, its lowest and highest of classes with 50 held-out cells (0.9 to 1.1); then
precision and recall over their floors and the correlation of markers.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.study_rows import DATA_SETS, ROWS, WITHOUT_SETTING, Row
from tests.benchmarks.study_table import Result, differences, table
from tests.benchmarks.study_trial import command_of, prepared_cells

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Trial:
    """Rows of one data set and seed that share their training."""

    dataset: str
    seed: int
    rows: tuple[Row, ...]


def missing_trials(
    datasets: Sequence[str],
    rows: Sequence[Row],
    seeds: Sequence[int],
    done: set[tuple[Any, ...]],
    *,
    split: str,
    common: tuple[str, ...],
) -> Iterator[Trial]:
    """What is not done, seed by seed; rows that differ in how cells are drawn alone come together."""
    for seed in seeds:
        for dataset in datasets:
            by_training: dict[str, list[Row]] = {}
            for row in rows:
                if (dataset, row.name, row.digest(common), seed, split) not in done:
                    training = row.training().digest(common)
                    by_training.setdefault(training, []).append(row)
            for together in by_training.values():
                yield Trial(dataset, seed, tuple(together))


def read_results(file: Path) -> list[Result]:
    """The results there are; a last line cut short by a kill is left out."""
    results = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{file}: a line is cut short and left out", file=sys.stderr)
    return results


def key_of(result: Result) -> tuple[Any, ...]:
    return tuple(result[name] for name in ("dataset", "row", "digest", "seed", "split"))


class Book:
    """Appends results, each a whole line on the disk, from several threads."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        if file.exists() and not file.read_bytes().endswith(b"\n"):
            with open(file, "a") as book:
                book.write("\n")

    def write(self, result: Result) -> None:
        with self._lock, open(self._file, "a") as book:
            book.write(json.dumps(result) + "\n")
            book.flush()
            os.fsync(book.fileno())
        shown = result["figures"]
        print(
            f"{result['dataset']} {result['row']} seed {result['seed']}: "
            f"W2 {shown['conditional']:.3f} x floor, cell-weighted {shown['weighted']:.3f} "
            f"({result['training_seconds']:.0f} s of training)",
            flush=True,
        )


def run_trial(trial: Trial, *, split: str, common: tuple[str, ...], out: Path, book: Book) -> str | None:
    """Do a trial in a process of its own; returns what went wrong, or None."""
    arguments = command_of(
        trial.dataset, list(trial.rows), seed=trial.seed, split=split, common=common, out=out
    )
    name = f"{trial.dataset}-{trial.rows[0].name}-{trial.seed}"
    log = out / "logs" / f"{name}-{split}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.study_trial", *arguments],
            cwd=ROOT,
            env=os.environ | THREADS,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                book.write(json.loads(line))
        process.wait()
    return f"{name}: see {log}" if process.returncode else None


def chosen_rows(names: Sequence[str] | None, given: Sequence[Sequence[str]]) -> list[Row]:
    """Rows by name (all, if neither names nor rows are given), then those given as NAME KEY=VALUE ..."""
    extra = [Row(name, "given", tuple(settings)) for name, *settings in given]
    if taken := [row.name for row in extra if row.name in ROWS]:
        raise SystemExit(f"{taken[0]} is a row already: give yours another name")
    if names is None:
        return extra or list(ROWS.values())
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"no row {unknown[0]}; --list shows all")
    return [ROWS[name] for name in names] + extra


def require_settings(rows: Sequence[Row], common: tuple[str, ...]) -> None:
    """Every row's settings are known to `train`, before hours are spent."""
    from jobs.config import load_config

    for row in rows:
        load_config(None, [*common, *row.for_label("cell_type")])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--datasets", nargs="+", choices=list(DATA_SETS), default=list(DATA_SETS))
    option("--rows", nargs="+", metavar="NAME", help="of those listed (all)")
    option("--row", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"), help="another")
    option("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every row")
    option("--seeds", nargs="+", type=int, default=list(SEEDS))
    option("--jobs", type=int, default=1, help="trials at a time, one thread each (1)")
    option("--out", type=Path, default=Path("runs/study"))
    option("--final", action="store_true", help="test figures of the rows that are named")
    option("--table", action="store_true", help="print what there is")
    option("--markdown", action="store_true", help="with --table: what rows differ in from the default")
    option("--list", action="store_true", help="show the rows")
    return parser.parse_args()


def main() -> None:
    asked = parsed()
    if asked.list:
        for row in ROWS.values():
            print(f"{row.name:<22} {row.why}: {' '.join(row.settings) or f'guidance {row.guidance:g}'}")
        print("without a setting:\n  " + "\n  ".join(WITHOUT_SETTING))
        return
    split, book = ("test", "final.jsonl") if asked.final else ("validation", "study.jsonl")
    file = asked.out / book
    if asked.table:
        results = read_results(file)
        print(differences(results, split) if asked.markdown else table(results, split))
        return
    if asked.final and not (asked.rows or asked.row):
        raise SystemExit("--final looks at test cells: name the rows that were chosen (--rows, --row)")
    if not os.environ.get("CFGEN_SCALE_DATA"):
        raise SystemExit("set CFGEN_SCALE_DATA to the folder of shared data")
    rows, common = chosen_rows(asked.rows, asked.row), tuple(asked.set)
    require_settings(rows, common)
    asked.out.mkdir(parents=True, exist_ok=True)
    done = {key_of(result) for result in read_results(file)}
    trials = list(missing_trials(asked.datasets, rows, asked.seeds, done, split=split, common=common))
    for dataset in dict.fromkeys(trial.dataset for trial in trials):
        prepared_cells(DATA_SETS[dataset], split, asked.out, Path(os.environ["CFGEN_SCALE_DATA"]))
    print(f"{len(trials)} trainings to do, {asked.jobs} at a time")
    writer = Book(file)
    with ThreadPoolExecutor(asked.jobs) as pool:
        wrong = pool.map(
            lambda trial: run_trial(trial, split=split, common=common, out=asked.out.resolve(), book=writer),
            trials,
        )
        failed = [message for message in wrong if message]
    print(table(read_results(file), split))
    if failed:
        raise SystemExit("failed:\n  " + "\n  ".join(failed))


if __name__ == "__main__":
    main()
