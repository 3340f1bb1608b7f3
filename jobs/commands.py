"""What each subcommand does: one function of the parsed options. Heavy imports wait until it runs."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.atlases.problems import Problem

    from .generation.copied_rows import LikeObs
    from .generation.request import Request


def prepare(options: Namespace) -> None:
    """Check the cells, split them, gather statistics."""
    from loaders.preparation.prepare import prepare
    from loaders.stores.store import RNA

    modalities = _sources_by_name(options.modality)
    names = [RNA, *modalities]
    prepared = prepare(
        options.sources,
        options.out,
        modalities=modalities,
        likelihoods=_likelihoods(options.likelihood),
        test=options.test,
        split_column=options.split_column,
        labels=options.label,
        obs=options.obs,
        layer=_by_modality(options.layer, names, "--layer"),
        split_by=options.split_by,
        min_cells_per_gene=options.min_cells_per_gene,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.seed,
        repack=options.repack,
        codec=options.codec,
        measurement=_by_modality(options.measurement, names, "--measurement"),
        obs_filter=options.obs_filter,
        feature_column=_by_modality(options.feature_column, names, "--feature-column"),
    )
    for name, value in prepared.summary.items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:<26} {shown}")
    _next(f"train all --data {options.out} --run runs/first")


def _sources_by_name(modalities: list[str]) -> dict[str, list[str] | None]:
    """NAME=SOURCE, where a name may come several times, as names with their sources; NAME alone has none."""
    named: dict[str, list[str] | None] = {}
    for modality in modalities:
        name, equals, source = modality.partition("=")
        if not name or bool(equals) != bool(source) or (name in named and not (source and named[name])):
            raise ValueError(
                f"--modality {modality}: write NAME=SOURCE, such as protein=adt.h5ad, or once NAME alone for "
                f"a modality of a MuData or SOMA."
            )
        named[name] = [*(named.get(name) or []), source] if source else None
    return named


def _likelihoods(options: list[str]) -> dict[str, Any]:
    """NAME=KIND as a dict."""
    kinds: dict[str, Any] = {}
    for option in options:
        name, _, kind = option.partition("=")
        if not (name and kind):
            raise ValueError(f"--likelihood {option}: write NAME=KIND, such as atac=bernoulli.")
        kinds[name] = kind
    return kinds


def _by_modality(options: list[str], names: Sequence[str], option: str) -> str | dict[str, str] | None:
    """VALUE, which is for all modalities, or NAME=VALUE for each of several."""
    pairs = [text.partition("=") for text in options]
    if all(equals and name in names for name, equals, _ in pairs):
        return {name: value for name, _, value in pairs} or None
    if len(options) > 1:
        raise ValueError(
            f"{option} is given {len(options)} times: write {option} NAME=VALUE for each modality "
            f"({', '.join(names)})."
        )
    return options[0]


def train(options: Namespace) -> None:
    """Train one stage or both; register the model where a name is given."""
    from .tracking import require_valid
    from .training.train import launched_as, train

    if options.register_as:
        require_valid(options.register_as, options.alias)
    run = train(
        options.stages,
        data=options.data,
        run=options.run,
        autoencoder_of=options.autoencoder_of,
        config_file=options.config,
        overrides=options.overrides,
        workers=options.workers,
        device=options.device,
        placement=options.placement,
        resources=options.resources,
        storage=options.storage,
        cache=options.cache,
        restarts=options.restarts,
        mlflow_uri=options.mlflow_uri,
        experiment=options.experiment,
        register_as=options.register_as,
        alias=options.alias,
    )
    from .training.status import status_of

    rank, _ = launched_as()
    if rank == 0:
        print("\n".join(status_of(run)))


def plan(options: Namespace) -> None:
    """What an atlas costs on so many GPUs; or this machine measured, beside what the cost model says."""
    if options.measure:
        from .planning.measure_training import measure

        for line in measure(options.genes):
            print(line, flush=True)
        return
    from .planning.forecast import forecast, planned_work

    work, device, host = planned_work(
        options.config,
        options.overrides,
        cells=options.cells,
        genes=options.genes,
        nonzeros=options.nonzeros,
        gpu=options.gpu,
        gpus=options.gpus,
        epochs=options.epochs,
        batch_cells=options.batch_cells,
        guided=options.guided,
    )
    print("\n".join(forecast(work, device, host, options.gpus)))


def generate(options: Namespace) -> None:
    """Draw the cells of a request into a new atlas."""
    from .generation.generate import generate_atlas
    from .tracking import find_model

    request = _request(options)
    model = find_model(options.model, uri=options.mlflow_uri)
    atlas = generate_atlas(
        model.path,
        options.out,
        request,
        seed=options.seed,
        workers=options.workers,
        chunk_cells=options.chunk_cells,
        solver=options.solver,
        steps=options.steps,
        tolerance=options.tolerance,
        guidance_interval=None if options.guidance_interval is None else tuple(options.guidance_interval),
        content="latents" if options.latents_only else "counts",
        device=options.device,
        registered=model.registered,
        to_soma=options.to == "soma",
    )
    _say_written(atlas, options.to)
    if options.latents_only:
        _next(f"decode {options.out} --model {options.model} --out ATLAS")


def _request(options: Namespace) -> "Request | LikeObs":
    """The groups or the table that the options of generate ask for. Raises RequestError."""
    from .generation.request import RequestError
    from .generation.request_sources import like_obs_from_options, read_request, request_from_options

    said = {name: getattr(options, name) for name in ("told", "untold", "guidance", "size_factor")}
    if options.copy_size_factors and not options.like_obs:
        raise RequestError("--copy-size-factors goes with --like-obs, whose column it names.")
    if options.like_obs:
        return like_obs_from_options(options.like_obs, **said, copy_size_factors=options.copy_size_factors)
    if options.cells is not None:
        return request_from_options(options.cells, **said)
    for name in (name for name, values in said.items() if values):
        raise RequestError(
            f"--{name.replace('_', '-')} goes with --cells and --like-obs. In {options.request} say it of "
            "each group."
        )
    return read_request(options.request)


def decode(options: Namespace) -> None:
    """Draw the counts of an atlas of latents."""
    from .generation.generate import decode_atlas
    from .tracking import find_model

    model = find_model(options.model, uri=options.mlflow_uri)
    atlas = decode_atlas(
        model.path,
        options.latents,
        options.out,
        workers=options.workers,
        registered=model.registered,
        to_soma=options.to == "soma",
    )
    _say_written(atlas, options.to)


def _say_written(atlas: Path, to: str) -> None:
    from loaders.atlases.generated_atlas import cells_asked_for, read_provenance

    from .generation.soma_beside import soma_of

    print(f"{sum(cells_asked_for(read_provenance(atlas))):,} cells in {atlas}")
    if to == "soma":
        print(f"SOMA experiment in {soma_of(atlas)}")


def check(options: Namespace) -> None:
    """Verify a generated atlas, and then the SOMA experiment beside it; problems are an error."""
    from loaders.atlases.check_atlas import check_atlas
    from loaders.atlases.check_soma import check_soma

    from .generation.soma_beside import soma_is_there, soma_of

    report = check_atlas(options.atlas, progress=True)
    _require_no_problems(options.atlas, report.problems)
    print(
        f"{options.atlas} is complete and as it was written: {report.cells:,} cells, {report.files:,} files, "
        f"{report.bytes:,} bytes"
    )
    if soma_is_there(Path(options.atlas)):
        soma = soma_of(options.atlas)
        _require_no_problems(soma, check_soma(options.atlas, soma, progress=True))
        print(f"{soma} says the same")


def _require_no_problems(path: str | Path, problems: Sequence["Problem"]) -> None:
    for problem in problems:
        print(problem)
    if problems:
        raise ValueError(f"{path} has {len(problems)} kinds of problems (above).")


def list_models(options: Namespace) -> None:
    """A line for each version of each registered model."""
    from .tracking import list_models

    for version in list_models(uri=options.mlflow_uri):
        aliases = ", ".join(version.aliases) or "-"
        print(f"models:/{version.name}/{version.version}  {aliases}  {version.digest[:12]}")


def show_model(options: Namespace) -> None:
    """All that the registry knows of one model."""
    from .tracking import list_models

    for version in list_models(options.name, uri=options.mlflow_uri):
        print(f"models:/{version.name}/{version.version}")
        print(f"  aliases  {', '.join(version.aliases) or '-'}")
        print(f"  digest   {version.digest}")
        print(f"  run      {version.run_id}")
        print(f"  files    {version.source}")


def promote_model(options: Namespace) -> None:
    """Point an alias to a version."""
    from .tracking import promote

    promote(options.name, options.version, options.alias, uri=options.mlflow_uri)
    print(f"models:/{options.name}@{options.alias} is version {options.version}.")


def status(options: Namespace) -> None:
    """How far a run is, and what comes next."""
    from .training.status import status_of

    print("\n".join(status_of(Path(options.run))))


def demo(options: Namespace) -> None:
    """The whole chain on the cells that come with scanpy."""
    from .demo import demo

    demo(Path(options.out))


def _next(command: str) -> None:
    print(f"next: cfgen-scale {command}", file=sys.stderr)
