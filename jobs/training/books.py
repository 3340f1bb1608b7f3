"""The books of a run: rows of metrics and notes, appended by one worker, followed by the driver."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Books(Protocol):
    """Where a worker writes down how training goes."""

    def begin(self, stage: str, cells_seen: int) -> None:
        """Forget the metrics of ``stage`` behind ``cells_seen``, which will come again."""
        ...

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one row: stage, cells_seen, cells_total, and metrics or a note."""
        ...


class BooksOnDisk:
    """Books in a file, RUN/metrics.jsonl: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, stage: str, cells_seen: int) -> None:
        truncate_metrics(self.path, stage, cells_seen)

    def add(self, row: Mapping[str, Any]) -> None:
        append_metrics(self.path, row)


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to metrics.jsonl."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def truncate_metrics(path: Path, stage: str, cells_seen: int) -> None:
    """Drop the rows of ``stage`` behind ``cells_seen``, which a resumed run will write again; notes stay."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line under way when a run was killed
        if row["stage"] != stage or row["cells_seen"] <= cells_seen or "note" in row:
            kept.append(line + "\n")
    aside = path.with_suffix(".aside")
    aside.write_text("".join(kept))
    aside.replace(path)


def last_place(path: Path) -> dict[str, Any]:
    """Stage, cells_seen and cells_total of the last complete row; of "training" where there is none yet."""
    text = path.read_text() if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    row = json.loads(lines[-1]) if lines else {"stage": "training", "cells_seen": 0, "cells_total": 1}
    return {name: row[name] for name in ("stage", "cells_seen", "cells_total")}
