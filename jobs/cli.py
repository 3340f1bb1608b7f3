"""The command line, ``cfgen-scale`` or ``python -m jobs.cli``: options, help, and one line for an error.

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.
"""

import sys
import traceback
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence

from . import commands
from .evaluation import commands as evaluate_commands
from .evaluation import options as evaluate_options
from .generation.options import ATTRIBUTES, check_options, decode_options, generate_options
from .training.options import plan_options, train_options

OUR_PACKAGES = ("cfgen_scale", "loaders", "jobs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    options = parse(arguments)
    try:
        options.act(options)
    except KeyboardInterrupt:
        print("interrupted. The same command again resumes.", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        print(f"cfgen-scale: error: {readable(error)}", file=sys.stderr)
        return 1
    return 0


def readable(error: Exception) -> str:
    """An error as one line: our own message as it is; of an unforeseen error also the type."""
    message = " ".join(str(error).split())
    if message and (isinstance(error, OSError) or _is_ours(error)):
        return message
    return f"{type(error).__name__}: {message} (unforeseen; --debug shows where it comes from)"


def _is_ours(error: Exception) -> bool:
    """Whether our own code raised it on purpose, with a message made for users."""
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = str(frames[-1][0].f_globals["__name__"]).partition(".")[0]
    return isinstance(error, ValueError | RuntimeError) and raised_in in OUR_PACKAGES


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """The options of a command line. Wrong usage prints what is wrong and exits with status 2."""
    parser = ArgumentParser(
        prog="cfgen-scale", description="Train generative models of single cells on whole atlases."
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser
    for describe in (
        _prepare,
        _plan,
        _train,
        _generate,
        _decode,
        _check,
        _evaluate,
        _models,
        _status,
        _demo,
    ):
        describe(add)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(evaluate_options.with_protocol(given))
    # argparse gives no value to a positional that follows options: `train all --run R flow.cells=1000`.
    if options.act in (commands.train, commands.plan) and all(
        "=" in r and not r.startswith("-") for r in rest
    ):
        options.overrides += rest
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options


Add = Callable[..., ArgumentParser]


def _subcommand(
    add: Add, name: str, act: Callable[[Namespace], None], what: str, example: str, notes: str = ""
) -> ArgumentParser:
    parser = add(
        name,
        help=what,
        description=what,
        epilog=f"{notes}example:\n  cfgen-scale {example}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(act=act)
    # Not to overwrite a --debug given before the subcommand.
    parser.add_argument("--debug", action="store_true", default=SUPPRESS, help="show tracebacks")
    return parser


def _prepare(add: Add) -> None:
    parser = _subcommand(
        add,
        "prepare",
        commands.prepare,
        "check an atlas, split its cells and gather statistics",
        "prepare atlas.h5ad --out prepared --label cell_type --label donor --split-by donor",
    )
    option = parser.add_argument
    option(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="raw counts: .h5ad, AnnData-Zarr, MuData (.h5mu, Zarr), SOMA, 10x .h5 or folder of matrix.mtx; "
        "or a folder of those",
    )
    option("--out", required=True, metavar="PREPARED", help="directory to write")
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument("--test", metavar="FILE", help="file of the test cells")
    held_out.add_argument("--split-column", metavar="NAME", help="obs column of train / validation / test")
    option(
        "--label", action="append", default=[], metavar="NAME", help="obs column to condition on; repeatable"
    )
    option(
        "--obs", metavar="TABLE", help=".csv, .tsv or .parquet of obs columns; first column: names of cells"
    )
    option(
        "--modality",
        action="append",
        default=[],
        metavar="NAME[=SOURCE]",
        help="other counts of the same cells, found by name, such as protein=adt.h5ad; NAME alone: that "
        "modality of the MuData, or measurement of the SOMA, that SOURCE is; repeatable",
    )
    option(
        "--likelihood",
        action="append",
        default=[],
        metavar="NAME=KIND",
        help="negative_binomial (default), poisson, or bernoulli, which binarises the counts, such as "
        "atac=bernoulli; the first modality is rna; repeatable",
    )
    option(
        "--layer",
        metavar="[NAME=]LAYER",
        help="layer that holds the counts (X, or the only layer of SOMA), of all modalities or of one",
        action="append",
        default=[],
    )
    option(
        "--feature-column",
        metavar="[NAME=]COLUMN",
        help="var column of gene names (the index; 10x: name, or id)",
        action="append",
        default=[],
    )
    soma = parser.add_argument_group("SOMA experiments")
    soma.add_argument(
        "--measurement",
        metavar="[NAME=]MEASUREMENT",
        help="what was measured (RNA)",
        action="append",
        default=[],
    )
    soma.add_argument("--obs-filter", metavar="CONDITION", help="cells to take, such as 'tissue == \"lung\"'")
    option("--split-by", metavar="NAME", help="obs column whose levels stay whole, such as donor")
    option(
        "--min-cells-per-gene", type=int, default=20, metavar="N", help="drop rarer genes (20); 0: keep all"
    )
    option("--validation-fraction", type=float, default=0.1, metavar="F", help="of the cells (0.1)")
    option("--test-fraction", type=float, default=0.1, metavar="F", help="of the cells (0.1)")
    option("--seed", type=int, default=0, help="of the split and of a repack (0)")
    option(
        "--repack",
        action="store_true",
        help="copy AnnData-Zarr and SOMA too; shuffled, for speed",
    )
    option(
        "--codec",
        choices=("none", "zstd"),
        default="none",
        help="of a copy (none): none is read fastest, 5-6 bytes a non-zero; zstd takes 1",
    )


def _train(add: Add) -> None:
    parser = _subcommand(
        add,
        "train",
        commands.train,
        "train the autoencoder, the flow, or both; the same command again resumes",
        "train all --data prepared --run runs/first --workers 2 flow.cells=1000000",
    )
    train_options(parser)


def _generate(add: Add) -> None:
    parser = _subcommand(
        add,
        "generate",
        commands.generate,
        "write a generated atlas; the same command again writes what is missing",
        'generate --model runs/first --cells 10000 --told cell_type="B cells" --out atlas.zarr',
        notes=ATTRIBUTES,
    )
    generate_options(parser)


def _decode(add: Add) -> None:
    parser = _subcommand(
        add,
        "decode",
        commands.decode,
        "draw the counts of an atlas of latents: the bytes that generate would have written at once",
        "decode latents.zarr --model runs/first --out atlas.zarr --workers 2",
    )
    decode_options(parser)


def _check(add: Add) -> None:
    parser = _subcommand(
        add,
        "check",
        commands.check,
        "verify a generated atlas: every file's digest, schema, counts, cells of each group",
        "check atlas.zarr",
    )
    check_options(parser)


def _evaluate(add: Add) -> None:
    _, what, example = evaluate_options.DESCRIBED["cells"]
    parser = _subcommand(add, "evaluate", evaluate_commands.cells, f"{what}; and other protocols", example)
    add_protocol = parser.add_subparsers(metavar="PROTOCOL", title="protocols (cells, where none is named)")
    for name, (options, what, example) in evaluate_options.DESCRIBED.items():
        act = getattr(evaluate_commands, name)
        options(_subcommand(add_protocol.add_parser, name, act, what, example))


def _models(add: Add) -> None:
    parser = add("models", help="the MLflow registry", description="the MLflow registry")
    add_action = parser.add_subparsers(required=True, metavar="ACTION").add_parser
    listing = _subcommand(add_action, "list", commands.list_models, "all registered models", "models list")
    show = _subcommand(
        add_action, "show", commands.show_model, "the versions of one model", "models show pbmc"
    )
    show.add_argument("name")
    promote = _subcommand(
        add_action,
        "promote",
        commands.promote_model,
        "point an alias to a version",
        "models promote pbmc 3 --alias champion",
    )
    promote.add_argument("name")
    promote.add_argument("version", type=int)
    promote.add_argument("--alias", default="champion", help="(champion)")
    for action in (listing, show, promote):
        action.add_argument("--mlflow-uri", metavar="URI", help="MLflow store (default: mlflow.db nearby)")


def _plan(add: Add) -> None:
    parser = _subcommand(
        add,
        "plan",
        commands.plan,
        "hours, bytes and the bottleneck of an atlas on so many GPUs, before they are spent",
        "plan --cells 100e6 --genes 20000 --gpus 64 --gpu a100-80",
    )
    plan_options(parser)


def _status(add: Add) -> None:
    parser = _subcommand(
        add, "status", commands.status, "how far a training run is, and what comes next", "status runs/first"
    )
    parser.add_argument("run", metavar="RUN", help="directory of the run")


def _demo(add: Add) -> None:
    parser = _subcommand(
        add,
        "demo",
        commands.demo,
        "prepare, train, generate and evaluate on 700 real cells",
        "demo --out demo",
    )
    parser.add_argument("--out", default="demo", help="directory for everything it writes (demo)")


if __name__ == "__main__":
    sys.exit(main())
