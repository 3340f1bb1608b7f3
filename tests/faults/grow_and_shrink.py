"""Train with 1:2 workers on a cluster of one node that gets a second, and loses it. A program of its own.

    python -m tests.faults.grow_and_shrink DATA RUN

A node here is a raylet with one CPU: Ray sees machines that come and go.
"""

import os
import sys
import threading
import time
from pathlib import Path

import jobs.training.ray_training
from cfgen_scale.training.checkpoint import checkpoints
from tests.small_atlas import train_small

LONG = (
    "autoencoder.cells=250000",
    "autoencoder.patience=0",
    "flow.cells=3000",
    "autoencoder.checkpoint_every_cells=2000",
)


def wait_for(metrics: Path, text: str, seconds: float = 120.0) -> None:
    """Wait until the books hold ``text``."""
    until = time.monotonic() + seconds
    while not metrics.exists() or text not in metrics.read_text():
        if time.monotonic() > until:
            raise TimeoutError(f"no {text!r} in {metrics}")
        time.sleep(0.1)


def grow_and_shrink(cluster: object, metrics: Path) -> None:
    """A node more when one worker trains; it dies when two do."""
    kept = metrics.parent / "autoencoder" / "checkpoints"
    while not (kept.exists() and checkpoints(kept)):
        time.sleep(0.1)
    print("adding a node", flush=True)
    node = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    wait_for(metrics, "1 -> 2 workers")
    time.sleep(5)
    print("a node dies", flush=True)
    cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
    wait_for(metrics, "2 -> 1 workers")
    print("training goes on", flush=True)


def main(data: Path, run: Path) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from ray.cluster_utils import Cluster

    jobs.training.ray_training.LOOK_FOR_ROOM = 3.0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver="-v" in sys.argv)
    # Nodes can be added in the main thread alone.
    options = {"data": data, "run": run, "workers": "1:2", "overrides": LONG}
    training = threading.Thread(target=train_small, args=("all",), kwargs=options, daemon=True)
    training.start()
    grow_and_shrink(cluster, run / "metrics.jsonl")
    training.join(timeout=240)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
