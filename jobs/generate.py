"""Generate an atlas: plan, write the missing chunks, assemble. The same call again resumes it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster import cluster
from .plan import CHUNK_CELLS, Chunk, Plan, differences, make_plan
from .request import Request

if TYPE_CHECKING:
    from cfgen_scale.model import CFGen
    from cfgen_scale.ode import OdeConfig
    from loaders.writer import PartialAtlas

    from .chunk_workers import Receipt

SHAPING_PACKAGES = ("cfgen-scale", "torch", "numpy", "zarr", "numcodecs", "anndata")


def generate_atlas(
    model_path: str | Path,
    out: str | Path,
    request: Request,
    *,
    seed: int = 0,
    workers: int = 1,
    use_ray: bool | None = None,
    chunk_cells: int = CHUNK_CELLS,
    solver: str | None = None,
    steps: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Draw the cells of ``request`` from a saved model and write them as an AnnData-Zarr v3 at ``out``.

    The bytes depend on model, request, seed, chunk_cells, solver, steps and kind of device, not on workers
    or interruptions. A finished ``out`` of the same plan is returned as it is.

    workers      processes that draw cells; one thread each. 1 is this process, more are Ray actors
    use_ray      True or False to decide otherwise than by the number of workers
    chunk_cells  cells drawn at a time: a worker needs about 10 x chunk_cells x G x 4 bytes, and 0.7 GB
    solver, steps  of the ODE; None: as the model was saved
    device       cpu or cuda (a GPU for each worker)

    Raises, before anything is written: RequestError or SchemaError (request against model), ValueError
    (options, model of several modalities), FileNotFoundError (no model), FileExistsError (``out`` or its
    work directory belong to another plan), RuntimeError (another process is at it).
    """
    from cfgen_scale.model import CFGen
    from loaders.assembly import finish
    from loaders.writer import PartialAtlas

    out = _local(out)
    with_ray = _with_ray(workers, use_ray, device)
    model = CFGen.load(model_path, "cpu" if with_ray else device)
    ode = _ode(model, solver, steps)
    plan = make_plan(
        request,
        model.schema,
        model_digest=model.digest,
        ode=ode,
        seed=seed,
        chunk_cells=chunk_cells,
        device=device,
    )
    _rehearse(model, plan)
    partial = PartialAtlas.beside(out)
    provenance = {"plan": plan.to_json(), "versions": _versions(), "model": model.provenance}
    if _is_finished(out, partial, plan):
        _say(f"{out} is complete already.", progress)
        return out
    _require_same_plan(partial, provenance)
    with partial.held():
        partial.begin(provenance)
        _write_missing(model, model_path, plan, partial, workers if with_ray else 0, progress)
        n_chunks = sum(1 for _ in plan.chunks())
        return finish(
            partial, out, n_chunks=n_chunks, schema=model.schema, provenance=provenance, progress=progress
        )


def _local(out: str | Path) -> Path:
    if "://" in str(out):
        raise ValueError(f"{out}: an atlas is generated into a directory that all workers share, not a URI.")
    return Path(out).absolute()


def _with_ray(workers: int, use_ray: bool | None, device: str) -> bool:
    """Whether Ray actors do the work. Raises ValueError for options that make no sense together."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}.")
    if use_ray is False and workers > 1:
        raise ValueError(f"{workers} workers need Ray; without it there is one, this process.")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', not {device!r}.")
    with_ray = workers > 1 if use_ray is None else use_ray
    if device == "cuda" and not with_ray:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but this process sees no GPU. Use device 'cpu'.")
    return with_ray


def _ode(model: "CFGen", solver: str | None, steps: int | None) -> "OdeConfig":
    from cfgen_scale.ode import FIXED_STEP

    chosen = solver or model.config.ode.solver
    if steps is not None and chosen not in FIXED_STEP:
        raise ValueError(
            f"{chosen} chooses its own steps; {steps} steps go with {' or '.join(FIXED_STEP)}. Leave one out."
        )
    changes: dict[str, Any] = {"solver": solver, "steps": steps}
    return replace(model.config.ode, **{name: v for name, v in changes.items() if v is not None})


def _rehearse(model: "CFGen", plan: Plan) -> None:
    """What would stop a chunk hours later stops here: two modalities, labels that cannot be drawn."""
    from loaders.assembly import check_writable

    check_writable(model.schema)
    for group in plan.request.groups:
        model.draw_labels(1, group.told, group.untold, seed=plan.seed)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from the source tree, as on a cluster
            return "not installed"

    return {package: version_of(package) for package in SHAPING_PACKAGES}


def _is_finished(out: Path, partial: "PartialAtlas", plan: Plan) -> bool:
    """Whether the atlas is there. One of another plan raises FileExistsError."""
    import shutil

    from loaders.assembly import read_provenance

    if not out.exists():
        return False
    other = differences(plan.to_json(), read_provenance(out)["plan"])
    if other:
        raise FileExistsError(
            f"{out} is an atlas of {', '.join(other)}. Choose another path, or delete that atlas first."
        )
    # Killed between the renaming of the atlas and the removal of its chunks.
    shutil.rmtree(partial.path, ignore_errors=True)
    return True


def _require_same_plan(partial: "PartialAtlas", provenance: Mapping[str, Any]) -> None:
    """Chunks of another plan, or of other versions that may draw other cells, are not mixed with new ones."""
    found = partial.read_plan()
    if found is None:
        return
    other = differences(provenance["plan"], found["plan"])
    other += differences(provenance["versions"], found["versions"])
    if other:
        raise FileExistsError(
            f"{partial.path} holds an unfinished atlas of {', '.join(other)}. Finish it with the settings it "
            "was begun with, choose another path, or delete that directory."
        )


def _write_missing(
    model: "CFGen",
    model_path: str | Path,
    plan: Plan,
    partial: "PartialAtlas",
    ray_workers: int,
    progress: bool,
) -> None:
    from tqdm import tqdm

    chunks = [chunk for chunk in plan.chunks() if not partial.has_chunk(chunk.index)]
    done = plan.n_cells - sum(chunk.cells for chunk in chunks)
    if done:
        _say(f"{done:,} of {plan.n_cells:,} cells were generated before.", progress)
    if not chunks:
        return
    with ExitStack() as stack:
        bar = tqdm(total=plan.n_cells, initial=done, unit=" cells", desc="generating", disable=not progress)
        stack.enter_context(bar)
        if ray_workers:
            stack.enter_context(cluster(ray_workers))
        for receipt in _receipts(model, model_path, plan, partial, chunks, ray_workers):
            bar.update(receipt.cells)


def _receipts(
    model: "CFGen",
    model_path: str | Path,
    plan: Plan,
    partial: "PartialAtlas",
    chunks: list[Chunk],
    ray_workers: int,
) -> Iterator["Receipt"]:
    from .chunk_workers import write_here, write_with_ray

    if ray_workers:
        return write_with_ray(model_path, plan, partial, chunks, workers=ray_workers)
    return write_here(model, plan, partial, chunks)


def _say(text: str, progress: bool) -> None:
    if progress:
        print(text, file=sys.stderr)
