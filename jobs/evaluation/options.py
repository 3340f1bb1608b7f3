"""Options of `evaluate` and of its protocols."""

from argparse import ArgumentParser

LIKELIHOODS = ("negative_binomial", "bernoulli", "poisson")


def with_protocol(arguments: list[str]) -> list[str]:
    """``evaluate --data ...`` is short for ``evaluate cells --data ...``; its help shows all protocols."""
    place = next((i for i, word in enumerate(arguments) if not word.startswith("-")), None)
    if place is None or arguments[place] != "evaluate":
        return arguments
    following = arguments[place + 1 : place + 2]
    if following and following[0] in (*DESCRIBED, "-h", "--help"):
        return arguments
    return [*arguments[: place + 1], "cells", *arguments[place + 1 :]]


def cells_options(parser: ArgumentParser) -> None:
    """Generated and real cells, what they are, where the report goes."""
    option = parser.add_argument
    option("--data", metavar="PREPARED", help="prepared atlas with training and test cells")
    option("--train", metavar="FILE", help="training cells, instead of --data")
    option("--test", metavar="FILE", help="test cells, instead of --data")
    option(
        "--generated", nargs="+", required=True, metavar="ATLAS", help="one atlas for each generation seed"
    )
    option(
        "--unconditional", nargs="+", default=[], metavar="ATLAS", help="atlases for unconditional figures"
    )
    option("--label", required=True, metavar="NAME", help="obs column of the classes")
    option("--modality", metavar="NAME", help="of several (.h5mu, MuData-Zarr, PREPARED): the one to compare")
    option(
        "--likelihood",
        choices=LIKELIHOODS,
        default=LIKELIHOODS[0],
        help="of the counts. negative_binomial: genes; bernoulli: peaks, open or not; poisson: peaks",
    )
    _held_out(parser)
    _report(parser)


def intersection_options(parser: ArgumentParser) -> None:
    """Table 10: two attributes, one of whose weights grows."""
    _model(parser)
    option = parser.add_argument
    option("--attributes", nargs=2, required=True, metavar="NAME", help="two attributes of the model")
    option(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        metavar="CATEGORY",
        help="a category of each; repeatable (the 6 intersections with most held-out cells)",
    )
    option("--growing", metavar="NAME", help="the attribute whose weight grows (the second)")
    option("--weight", type=float, default=1.0, metavar="W", help="of the other attribute (1)")
    _weights(parser, (0, 0.5, 1, 2, 3, 5), "of the growing attribute")
    option("--cells", type=int, default=500, metavar="N", help="of each pair, weight and seed (500)")
    _held_out(parser)
    _report(parser)


def guidance_options(parser: ArgumentParser) -> None:
    """Fig. A14: distances over combinations of weights."""
    _model(parser)
    parser.add_argument(
        "--attributes",
        nargs="+",
        required=True,
        metavar="NAME",
        help="of the model; of several: intersections",
    )
    _weights(parser, (0, 0.5, 1, 1.5, 2, 3), "of each attribute, in all combinations")
    parser.add_argument("--modality", metavar="NAME", help="of several: the one to compare (the first)")
    _held_out(parser)
    _report(parser)


def mask_options(parser: ArgumentParser) -> None:
    """Counts to be hidden before a model is trained."""
    parser.add_argument("source", metavar="SOURCE", help="raw counts: .h5ad or AnnData-Zarr")
    parser.add_argument("--out", required=True, metavar="FILE", help=".h5ad to write, for prepare")
    parser.add_argument("--share", type=float, default=0.1, metavar="F", help="of the non-zero counts (0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")


def imputation_options(parser: ArgumentParser) -> None:
    """Table 9: a model trained on masked cells, and these."""
    option = parser.add_argument
    option("--model", required=True, metavar="MODEL", help="a run or model trained on the masked cells")
    option("--mlflow-uri", metavar="URI", help="MLflow store of models:/ names (default: mlflow.db nearby)")
    option("--masked", required=True, metavar="FILE", help="cells made by evaluate mask")
    option(
        "--sigmas", nargs="+", type=float, default=[0.0, 0.05, 0.1, 0.5], metavar="S", help="(0 0.05 0.1 0.5)"
    )
    option("--guidance", type=float, default=1.0, metavar="W", help="of the attributes that are known (1)")
    option("--cells", type=int, default=5000, metavar="N", help="at most, spread over the file (5000)")
    option("--seed", type=int, default=0, help="of the step in noise (0)")
    option("--out", required=True, metavar="REPORT", help="directory to write")


def _model(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("--model", required=True, metavar="MODEL", help="a run, a model directory or models:/NAME@ALIAS")
    option("--mlflow-uri", metavar="URI", help="MLflow store of models:/ names (default: mlflow.db nearby)")
    option("--data", required=True, metavar="PREPARED", help="prepared atlas with training and test cells")


def _weights(parser: ArgumentParser, default: tuple[float, ...], what: str) -> None:
    shown = " ".join(f"{weight:g}" for weight in default)
    parser.add_argument(
        "--weights", nargs="+", type=float, default=list(default), metavar="W", help=f"{what} ({shown})"
    )


def _held_out(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--held-out",
        choices=("test", "validation"),
        default="test",
        help="cells of PREPARED to compare with (test); settings are chosen on validation",
    )


def _report(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("--out", required=True, metavar="REPORT", help="directory to write")
    option("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="S", help="of draws and halves (0 1 2)")


_WITH_MODEL = "--model runs/first --data prepared --attributes cell_type donor"
# protocol: its options, what it does, an example
DESCRIBED = {
    "cells": (
        cells_options,
        "compare generated cells with held-out ones: metrics.json and report.html",
        "evaluate --data prepared --generated atlas.zarr --label cell_type --out report",
    ),
    "intersection": (
        intersection_options,
        "classifier probabilities of two attributes as one guidance weight grows",
        f"evaluate intersection {_WITH_MODEL} --out intersection",
    ),
    "guidance": (
        guidance_options,
        "distances over combinations of guidance weights",
        f"evaluate guidance {_WITH_MODEL} --out guidance",
    ),
    "mask": (
        mask_options,
        "hide a share of the counts, for a model that is to impute them",
        "evaluate mask atlas.h5ad --out masked.h5ad",
    ),
    "imputation": (
        imputation_options,
        "impute the hidden counts by a model of the masked cells; beside simple ways",
        "evaluate imputation --model runs/masked --masked masked.h5ad --out imputation",
    ),
}
