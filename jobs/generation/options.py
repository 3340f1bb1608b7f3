"""The options of the subcommands that make and verify generated atlases."""

from argparse import ArgumentParser

ATTRIBUTES = """what the cells are told:
  --told and --untold say it of all cells, a request file of each group, a table (--like-obs) of each cell.
  An attribute that none of them speaks of is drawn for each cell as it occurs in the training cells together
  with what the cell is told: the observed joint distribution. With --cells alone, that is all attributes.

"""


def generate_options(parser: ArgumentParser) -> None:
    """Options of ``generate``."""
    option = parser.add_argument
    option("--model", required=True, metavar="MODEL", help="a run, a model directory or models:/NAME@ALIAS")
    option("--out", required=True, metavar="ATLAS", help="AnnData-Zarr to write")
    _request_options(parser)
    option("--seed", type=int, default=0, help="of every draw (0)")
    option("--workers", type=int, default=1, metavar="N", help="Ray workers (1: this process, no Ray)")
    option("--solver", help="of the flow: euler, midpoint, dopri5 or tsit5 (default: the model's)")
    option("--steps", type=int, help="of euler and midpoint (default: the model's)")
    option("--tolerance", type=float, metavar="T", help="of dopri5 and tsit5 (default: the model's)")
    option("--chunk-cells", type=int, metavar="N", help="cells drawn at a time (512; on a GPU 8192)")
    option("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: a GPU for each worker (cpu)")
    option(
        "--latents-only", action="store_true", help="no counts: decode draws the same ones from the latents"
    )
    _to_option(parser)
    _mlflow_option(parser)


def _request_options(parser: ArgumentParser) -> None:
    option = parser.add_argument
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--cells", type=int, metavar="N", help="number of cells")
    asked.add_argument("--request", metavar="FILE", help="YAML or CSV file of groups of cells")
    asked.add_argument(
        "--like-obs",
        metavar="TABLE",
        help="a cell for every row of a .csv, .tsv, .parquet, .h5ad or AnnData-Zarr, whose columns named as "
        "attributes are copied; a missing value is untold",
    )
    option(
        "--told", action="append", default=[], metavar="NAME=VALUE", help="attribute of all cells; repeatable"
    )
    option("--untold", action="append", default=[], metavar="NAME", help="attribute left open; repeatable")
    option("--guidance", action="append", default=[], metavar="NAME=W", help="weight (1); repeatable")
    option(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="times between which guidance acts, 0 noise and 1 data (default: the model's, 0 1)",
    )
    option(
        "--size-factor",
        action="append",
        default=[],
        metavar="COUNTS",
        help="counts a cell, or MODALITY=COUNTS (default: drawn as in the training cells)",
    )
    option(
        "--copy-size-factors",
        action="append",
        default=[],
        metavar="COLUMN",
        help="of the table: counts of each cell, such as n_counts; or MODALITY=COLUMN",
    )


def decode_options(parser: ArgumentParser) -> None:
    """Options of ``decode``."""
    option = parser.add_argument
    option("latents", metavar="LATENTS", help="what generate --latents-only wrote")
    option("--model", required=True, metavar="MODEL", help="the model that generated them")
    option("--out", required=True, metavar="ATLAS", help="AnnData-Zarr to write")
    option("--workers", type=int, default=1, metavar="N", help="Ray workers (1: this process, no Ray)")
    _to_option(parser)
    _mlflow_option(parser)


def check_options(parser: ArgumentParser) -> None:
    """Options of ``check``."""
    parser.add_argument("atlas", metavar="ATLAS", help="a generated atlas")


def _to_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        choices=("zarr", "soma"),
        default="zarr",
        help="soma: a TileDB-SOMA experiment beside the atlas, ATLAS with .soma for .zarr, as well (zarr)",
    )


def _mlflow_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--mlflow-uri", metavar="URI", help="MLflow store of models:/ names (default: mlflow.db nearby)"
    )
