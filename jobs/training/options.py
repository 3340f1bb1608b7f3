"""Options of `train`, and of `plan`, which says what training will cost."""

from argparse import ArgumentParser

from ..device import DEVICES
from .machines import PLACEMENTS


def train_options(parser: ArgumentParser) -> None:
    """What is trained on what, where, by how many workers."""
    option = parser.add_argument
    option("stages", choices=("autoencoder", "flow", "all"))
    option(
        "overrides", nargs="*", metavar="key=value", help="configuration, such as autoencoder.cells=500000"
    )
    option("--data", required=True, metavar="PREPARED", help="directory made by prepare")
    option("--run", required=True, help="directory of the run")
    option("--config", metavar="FILE", help="YAML file of configuration")
    option(
        "--autoencoder-of", metavar="RUN", help="take the trained autoencoder of another run like this one"
    )
    option(
        "--workers",
        default="1",
        metavar="N|MIN:MAX",
        help="Ray Train workers (1), or as many as the cluster has room for; 0: this process, no Ray",
    )
    option("--device", choices=DEVICES, default="auto", help="auto: GPUs where there are enough (auto)")
    option("--placement", choices=PLACEMENTS, help="of Ray workers on nodes: together, or apart (pack)")
    option(
        "--resources",
        metavar="NAME=N,...",
        help="of each Ray worker, such as CPU=8,GPU=1 (a CPU, and a GPU where it trains on one)",
    )
    option("--restarts", type=int, default=3, metavar="N", help="after lost workers (3); -1: always")
    option("--storage", metavar="URI", help="Ray's checkpoints, for workers that do not share RUN (RUN/ray)")
    option("--cache", metavar="DIR", help="of a local disk: cells of slow stores are copied there once")
    option("--mlflow-uri", metavar="URI", help="MLflow store (default: mlflow.db beside the run)")
    option("--experiment", default="cfgen-scale", metavar="NAME", help="MLflow experiment (cfgen-scale)")
    option("--register-as", metavar="NAME", help="name for the model in the registry")
    option("--alias", default="champion", help="alias that the registered model gets (champion)")


def plan_options(parser: ArgumentParser) -> None:
    """The size of an atlas and the machines it is planned for."""
    option = parser.add_argument
    option(
        "overrides", nargs="*", metavar="key=value", help="configuration, such as model.velocity.width=512"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--cells", type=float, metavar="N", help="cells to train on, and to generate")
    asked.add_argument("--measure", action="store_true", help="measure this machine; predicted beside real")
    option("--genes", type=int, default=20_000, metavar="G", help="(20000)")
    option("--nonzeros", type=float, metavar="M", help="of a cell (a twentieth of the genes)")
    option("--gpus", type=int, default=1, metavar="W", help="workers with a GPU each (1)")
    option("--gpu", default="a100-80", metavar="KIND", help="a100-40, a100-80, h100 or h200 (a100-80)")
    option("--epochs", type=float, default=1.0, metavar="E", help="times a stage sees each cell (1)")
    option("--batch-cells", type=int, default=4096, metavar="B", help="cells of a worker's batch (4096)")
    option("--guided", type=int, default=0, metavar="K", help="attributes that guide generation (0)")
    option("--config", metavar="FILE", help="YAML file of configuration, for the shape of the model")
