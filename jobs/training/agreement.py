"""Workers that do the same thing, also where some see the shared file system later than others.

What is done depends on what lies in the run directory. On NFS a file that one machine has written may be
unseen by another for a minute, so that workers which look for themselves may part. The first worker looks,
all others are told, and wait until they see what they were told of.
"""

import os
import time
from pathlib import Path

# An NFS client keeps what it knows of a directory for at most a minute by default (acdirmax).
PATIENCE = 180.0
POLL = 0.2
# How long workers wait for one another, in seconds. The first one has more to do than the others: it fits the
# whitening, writes the model, and waits for a storage that is slow or away for a while. A worker that died is
# noticed by Ray and by torchrun, which need no time limit for it.
GROUP_PATIENCE = 6 * 3600


def first_says(told: int) -> int:
    """An integer of the first worker (a bool too), on all workers; every worker must call this."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast

    return int(broadcast(torch.tensor(told, device=PartialState().device)))


def wait_for(path: Path, *, seconds: float = PATIENCE) -> Path:
    """Return ``path`` as soon as it is seen. Raises FileNotFoundError where that takes longer than
    ``seconds``."""
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            raise FileNotFoundError(
                f"the first worker sees {path}, and this one ({os.uname().nodename}) has not for "
                f"{seconds:.0f} s: the run directory must be on a file system that all workers share. Ray "
                "workers that share none need --storage."
            )
        time.sleep(POLL)
        _look_again(path.parent)
    return path


def _look_again(folder: Path) -> None:
    """Opening a directory has an NFS client ask its server, where looking up a name may not."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            next(entries, None)
