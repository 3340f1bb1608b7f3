"""A Ray cluster to work on: the one connected to, the one named in RAY_ADDRESS, or a local one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Be connected to Ray inside; a connection that was there before is used and left as it is.

    A local cluster has a slot for each worker, also where the machine has fewer cores, so that the number
    of workers asked for is the number that runs.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        slots = max(workers, os.cpu_count() or 1)
        ray.init(
            address="local",
            num_cpus=slots,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()
