"""A directory that is there wholly or not at all, written by one process at a time.

``OUT.partial`` beside it is where it is written, ``OUT.partial.lock`` what keeps a second process out.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .locks import sole_writer

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OF_A_REPACK = "codec zstd takes a sixth; a repack takes as much again while it runs"


@contextmanager
def written_aside(out: Path, *, to_make_room: str = OF_A_REPACK) -> Iterator[Path]:
    """A directory beside ``out`` that takes its name if all goes well, and is removed if not.

    What a run that was killed left there is removed first. Raises RuntimeError naming the process that is
    writing ``out``, FileExistsError if one has just finished, PermissionError, or OSError for a full disk,
    which says ``to_make_room``.
    """
    partial = out.with_name(f"{out.name}.partial")
    with sole_writer(out, out.with_name(f"{out.name}.partial.lock")):
        if out.exists() and os.listdir(out):
            raise FileExistsError(
                f"{out} was written by another process just now. The same command again tells whether it is "
                f"what you asked for."
            )
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
            os.replace(partial, out)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise OSError(
                    error.errno,
                    f"{os.strerror(error.errno)}: {partial} could not be written and was removed. Make room "
                    f"({to_make_room}) and run the same again",
                ) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
