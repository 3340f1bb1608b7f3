"""Follow a training run from outside: new rows of its metrics file, and one progress bar per stage.

The training loop (rank 0, in this process or in a Ray worker) appends one JSON object a line to
``RUN/metrics.jsonl``. The driver reads that file, so that progress and tracking need no channel of their own.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from .patient import AT_THE_END, PAUSES, Patient

Row = dict[str, Any]
Listener = Callable[[Sequence[Row]], None]

METRICS_FILE = "metrics.jsonl"


class MetricsReader:
    """Reads the complete lines that were added to a metrics file since the last read.

    A resumed run cuts the file back to its restored position and appends again. The reader notices (the last
    line it gave out is no longer where it was) and begins again at the top, so that a listener may be given
    a row twice: those who must not count one twice key it by (stage, cells_seen, metric).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offset = 0
        self._last_line = b""

    def new_rows(self) -> list[Row]:
        """The new rows in order; none while the file does not exist. Raises ValueError at a line not JSON."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset - len(self._last_line))
            if file.read(len(self._last_line)) != self._last_line:
                self._offset, self._last_line = 0, b""
                file.seek(0)
            text = file.read()
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        if lines:
            self._offset += sum(map(len, lines))
            self._last_line = lines[-1]
        return [self._parse(line) for line in lines]

    def _parse(self, line: bytes) -> Row:
        try:
            row: Row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} has a line that is not JSON: {line[:80]!r} ({error}).") from error
        return row


def follow(path: str | Path, on_rows: Listener, stop: threading.Event, *, interval: float = 0.5) -> None:
    """Give ``on_rows`` every new batch of rows until ``stop`` is set, then what is left, and return.

    ``interval`` is the time between two looks at the file, in seconds.
    """
    reader = MetricsReader(path)
    while True:
        stopping = stop.wait(interval)
        if rows := reader.new_rows():
            on_rows(rows)
        if stopping:
            return


@contextmanager
def watch(
    path: str | Path,
    *listeners: Listener,
    stream: TextIO | None = None,
    interval: float = 0.5,
    pauses: tuple[float, float] = PAUSES,
    at_the_end: float = AT_THE_END,
) -> Iterator[None]:
    """Show progress on ``stream`` (stderr) and tell ``listeners`` while the body runs, in a thread each.

    At the end of the body every row has been told. A listener that fails does not stop the body (training
    goes on when a tracking server is down): its rows are kept and told when it works again (`Patient`). Where
    it does not until the end, RuntimeError is raised there, unless the body itself fails.
    """
    stop, errors, bar = threading.Event(), list[Exception](), ProgressBar(stream)

    def work(listener: Listener) -> None:
        try:
            follow(path, listener, stop, interval=interval)
        except Exception as error:
            errors.append(error)

    patients = [Patient(told, say=bar.say, pauses=pauses, at_the_end=at_the_end) for told in listeners]
    threads = [
        threading.Thread(target=work, args=[hear], name="follow-metrics", daemon=True)
        for hear in (bar.show, *(patient.hear for patient in patients))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        bar.close()
    for patient in patients:
        patient.finish()
    if errors:
        raise errors[0]


class ProgressBar:
    """One bar per stage: cells seen of the total, cells/s, time left and loss.

    On a terminal a tqdm bar; elsewhere (a log file, CI) one plain line at each tenth of a stage.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: tqdm[Any] | None = None
        self._stage = ""
        self._tenth = -1
        self._told: set[str] = set()

    def show(self, rows: Sequence[Row]) -> None:
        """Show the latest of these rows of each stage, and each note once; a :data:`Listener`."""
        for note in (line for line in map(note_line, rows) if line and line not in self._told):
            self._told.add(note)
            self.say(note)
        for row in latest_by_stage(rows).values():
            if row["stage"] != self._stage:
                self._begin(row["stage"])
            if self._stream.isatty():
                self._draw(row)
            else:
                self._print(row)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        tqdm.write(line, file=self._stream)

    def close(self) -> None:
        """Leave the last bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, stage: str) -> None:
        self.close()
        self._stage, self._tenth = stage, -1

    def _draw(self, row: Row) -> None:
        if self._bar is None:
            layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cells{postfix}"
            self._bar = tqdm(desc=self._stage, unit_scale=True, file=self._stream, bar_format=layout)
        self._bar.total = row["cells_total"]
        self._bar.n = min(row["cells_seen"], row["cells_total"])
        self._bar.set_postfix_str(rate_and_loss(row))

    def _print(self, row: Row) -> None:
        tenth = 10 * row["cells_seen"] // row["cells_total"]
        if tenth > self._tenth:
            self._tenth = tenth
            print(progress_line(row), file=self._stream, flush=True)


def latest_by_stage(rows: Sequence[Row]) -> dict[str, Row]:
    """For each stage, in order of appearance, the latest value of every field of its rows but notes."""
    latest: dict[str, Row] = {}
    for row in (row for row in rows if "note" not in row):
        latest[row["stage"]] = {**latest.get(row["stage"], {}), **row}
    return latest


def progress_line(row: Row) -> str:
    """One readable line: stage, share done, cells, rate, time left, losses."""
    done, total = min(row["cells_seen"], row["cells_total"]), row["cells_total"]
    return f"{row['stage']}: {done / total:4.0%} of {total:,} cells, {rate_and_loss(row)}"


def note_line(row: Row) -> str | None:
    """``flow after 1,200 cells: resumed with 2 -> 1 workers: ...``, of a row with a note."""
    return f"{row['stage']} after {row['cells_seen']:,} cells: {row['note']}." if "note" in row else None


def rate_and_loss(row: Row) -> str:
    """``1,431 cells/s, 04:19 left, loss 2817.3``, of the fields that the row has."""
    rate = row.get("cells_per_second")
    if not rate:
        return losses(row)
    left = tqdm.format_interval(max(row["cells_total"] - row["cells_seen"], 0) / rate)
    return f"{rate:,.0f} cells/s, {left} left, {losses(row)}"


def losses(row: Row) -> str:
    """``loss 2817.3, validation loss 2790.1``, of the fields that the row has."""
    names = [name for name in ("loss", "validation_loss") if name in row]
    return ", ".join(f"{name.replace('_', ' ')} {row[name]:.5g}" for name in names)
