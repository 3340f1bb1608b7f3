"""Generate with two workers on a cluster of two nodes, of which one dies. A program of its own.

    python -m tests.faults.lose_a_node MODEL OUT

A node here is a raylet with one CPU: Ray sees machines that come and go. The one that dies is not told to
(its processes are killed), while both workers have chunks.
"""

import os
import sys
import threading
import time
from pathlib import Path

from jobs.generation.generate import generate_atlas
from loaders.atlases.writer import PartialAtlas
from tests.faults.test_killed_generation import MANY_CHUNKS

BEFORE = 20  # chunks, of 400


def wait_for_chunks(out: Path, chunks: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while len(PartialAtlas.beside(out).chunks_there()) < chunks:
        if out.exists() or time.monotonic() > until:
            raise TimeoutError(f"the moment at {chunks} chunks has passed, or never came")
        time.sleep(0.005)


def main(model: Path, out: Path) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver="-v" in sys.argv)
    options = {"chunk_cells": 5, "workers": 2, "progress": False}
    generation = threading.Thread(
        target=generate_atlas, args=(model, out, MANY_CHUNKS), kwargs=options, daemon=True
    )
    generation.start()
    wait_for_chunks(out, BEFORE, 120)
    while ray.available_resources().get("CPU", 0) > 0:  # until the second worker has its place
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    assert not out.exists()
    print("a node died with chunks under way", flush=True)
    # The actor that replaces the lost one has no place any more: the other does all the work.
    generation.join(timeout=120)
    ray.shutdown()
    cluster.shutdown()
    if generation.is_alive() or not out.exists():
        raise SystemExit("the atlas was not finished without the node")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
