"""Where a report goes: a new directory, or the place of an earlier report of the same things."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfgen_scale.files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150


def require_directory(out: Path, sources: Mapping[str, Any], files: Sequence[str]) -> None:
    """``out`` is free, or holds ``files`` of an earlier report, whose first names the same ``sources``.

    Raises FileExistsError for a file, a directory of something else, or a report of other things.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; the report needs a directory. Give another --out.")
    others = sorted(p.name for p in out.iterdir() if p.name not in files and p.suffix != ".aside")
    if others:
        raise FileExistsError(f"{out} holds other files ({others[0]}, ...). Give another --out.")
    figures = out / files[0]
    if figures.exists():
        found = json.loads(figures.read_text()).get("sources")
        if found != sources:
            raise FileExistsError(f"{out} is the report of other cells ({found}). Give another --out.")


def files_of(name: str) -> tuple[str, str, str]:
    """The files of the report of one protocol: figures, table, picture."""
    return f"{name}.json", f"{name}.csv", f"{name}.png"


def write_protocol(
    out: Path, name: str, document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figure: Figure
) -> None:
    """Write NAME.csv (``rows``), NAME.png and, last, NAME.json (``document``), each by a rename."""
    figures, table, picture = files_of(name)
    out.mkdir(parents=True, exist_ok=True)
    text, image = io.StringIO(), io.BytesIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    for file, content in ((table, text.getvalue().encode()), (picture, image.getvalue())):
        aside = out / f".{file}.{os.getpid()}.aside"
        aside.write_bytes(content)
        os.replace(aside, out / file)
    write_json(out / figures, document)
