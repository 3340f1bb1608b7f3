"""`cfgen-scale` in a process of torchrun, where all but the first see what is written in the run late.

    torchrun ... -m -- tests.faults.late_view RUN SECONDS train all ...

As on NFS: the name of a file younger than SECONDS is not there yet for the other processes, unless they have
seen it before.
"""

import os
import sys
import time
from pathlib import Path

from jobs.cli import main


def see_late(run: Path, seconds: float) -> None:
    """Have `Path.exists` and `Path.is_file` of this process overlook what is new in ``run``."""
    inside, known = str(run.resolve()), set[str]()

    def visible(path: Path) -> bool:
        name = os.path.abspath(path)
        if not name.startswith(inside) or name in known:
            return True
        if os.path.lexists(name) and time.time() - os.stat(name).st_mtime > seconds:
            known.update((name, *map(str, Path(name).parents)))
        return name in known

    exists, is_file = Path.exists, Path.is_file
    Path.exists = lambda self, **how: visible(self) and exists(self, **how)  # type: ignore[method-assign]
    Path.is_file = lambda self, **how: visible(self) and is_file(self, **how)  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] != "0":
        see_late(Path(sys.argv[1]), float(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
