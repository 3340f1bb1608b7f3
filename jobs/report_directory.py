"""Where a report goes: a new directory, or the place of an earlier report of the same things."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def require_directory(out: Path, sources: Mapping[str, Any], files: Sequence[str]) -> None:
    """``out`` is free, or holds ``files`` of an earlier report, the first of which names the same ``sources``.

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
