import os
import signal
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch

from cfgen_scale.model import CFGen
from cfgen_scale.types import SchemaError
from jobs.generation import ray_crew
from jobs.generation.chunk_workers import AtlasWorker, Receipt
from jobs.generation.crew import crew_of
from jobs.generation.generate import generate_atlas
from jobs.generation.plan import Chunk, make_plan
from jobs.generation.request import Group, Request, SizeFactor
from jobs.generation.shaping import machine_here
from loaders.atlases.assembly import read_provenance
from loaders.atlases.check_atlas import check_atlas
from loaders.atlases.writer import PartialAtlas
from tests.tiny_model import GENES, JOINT_LABELS, SCHEMA, save_tiny_model
from tests.tree_bytes import tree_bytes

REQUEST = Request(
    (
        Group(70, told={"cell_type": "NK"}, untold=("donor",), guidance={"cell_type": 2.0}),
        Group(50, told={"cell_type": "B"}),
        Group(40),
    )
)
CHUNKS = 9  # of at most 20 cells


def generate(model_path: Path, out: Path, **options: Any) -> Path:
    settings = {"chunk_cells": 20, "progress": False, **options}
    return generate_atlas(model_path, out, settings.pop("request", REQUEST), **settings)


@pytest.fixture(scope="module")
def atlas_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas of REQUEST, written in one go by this process."""
    return generate(model_path, tmp_path_factory.mktemp("atlas") / "atlas.zarr")


def stop_after(monkeypatch: pytest.MonkeyPatch, n_chunks: int) -> list[int]:
    """Let writing fail after n chunks as a full disk does; returns a list that fills with those written."""
    written: list[int] = []
    write = AtlasWorker.write

    def failing(worker: AtlasWorker, chunk: Chunk) -> Receipt:
        if len(written) == n_chunks:
            raise OSError(28, "No space left on device")
        written.append(chunk.index)
        return write(worker, chunk)

    monkeypatch.setattr(AtlasWorker, "write", failing)
    return written


def test_atlas_has_the_cells_asked_for(atlas_path: Path) -> None:
    atlas = anndata.read_zarr(atlas_path)
    assert atlas.shape == (160, len(GENES))
    assert tuple(atlas.var_names) == GENES
    assert np.issubdtype(atlas.X.dtype, np.integer)
    assert (atlas.X.data > 0).all()
    assert atlas.obsm["X_cfgen"].dtype == np.float32
    told = atlas.obs.groupby("request_group", observed=True)["cell_type"].value_counts()
    assert told[0].to_dict() == {"NK": 70, "B": 0, "T": 0}
    assert told[1].to_dict() == {"B": 50, "NK": 0, "T": 0}
    assert atlas.obs["donor"][:70].isna().all()
    assert atlas.obs["donor"][70:].notna().all()


def test_attributes_not_told_are_drawn_as_they_occur_together(atlas_path: Path) -> None:
    drawn = anndata.read_zarr(atlas_path).obs.iloc[120:]
    pairs = set(zip(drawn["cell_type"].cat.codes, drawn["donor"].cat.codes, strict=True))
    assert pairs == {codes for codes, _ in JOINT_LABELS}


def test_drawn_attributes_follow_the_joint_distribution(model_path: Path, tmp_path: Path) -> None:
    """Chi-square of 6,000 cells against the training cells' joint; 4 degrees of freedom, 0.1 % level."""
    cells = 6000
    out = generate(model_path, tmp_path / "a.zarr", request=Request((Group(cells),)), chunk_cells=500)
    obs = anndata.read_zarr(out).obs
    found = obs.groupby([obs["cell_type"].cat.codes, obs["donor"].cat.codes]).size()
    expected = {codes: cells * n / 100 for codes, n in JOINT_LABELS}
    assert set(found.index) == set(expected)
    chi_square = sum((found[codes] - n) ** 2 / n for codes, n in expected.items())
    assert chi_square < 18.47


def test_many_small_groups_share_a_chunk_and_keep_what_is_theirs(model_path: Path, tmp_path: Path) -> None:
    """300 groups of 3 cells in 9 chunks; donors of B cells as they occur, 3 to 1, at the 0.1 % level."""
    told = ({"cell_type": "NK", "donor": "d2"}, {"cell_type": "B"}, {"cell_type": "T"})
    kinds = [Group(3, of_kind) for of_kind in told]
    asked = [
        Group(3, {"donor": "d1"}, size_factors={"": SizeFactor(np.log(50.0))}),
        Group(3, size_factors={"": SizeFactor(np.log(70.0))}),
    ]
    request = Request((*kinds * 100, *asked))
    out = generate(model_path, tmp_path / "a.zarr", request=request, chunk_cells=100)
    obs = anndata.read_zarr(out).obs
    assert obs["request_chunk"].max() == 9
    assert obs["request_group"].tolist() == np.repeat(np.arange(302), 3).tolist()
    assert obs["cell_type"][:900].tolist() == (["NK"] * 3 + ["B"] * 3 + ["T"] * 3) * 100
    donors = obs["donor"][:900].to_numpy().reshape(100, 3, 3)
    assert (donors[:, 0] == "d2").all()
    first = int((donors[:, 1] == "d1").sum())
    assert (first - 225) ** 2 / (300 * 0.75 * 0.25) < 10.83
    assert len({tuple(cells) for cells in donors[:, 2].tolist()}) > 4, "groups do not repeat one another"
    assert (obs["donor"][900:903] == "d1").all()
    np.testing.assert_allclose(obs["size_factor"][900:], [50] * 3 + [70] * 3, rtol=1e-5)
    assert check_atlas(out).ok


def test_size_factors_asked_for(model_path: Path, tmp_path: Path) -> None:
    groups = (
        Group(40, size_factors={"": SizeFactor(np.log(5000))}),
        Group(400, size_factors={"rna": SizeFactor(4.0, 0.5)}),
    )
    obs = anndata.read_zarr(generate(model_path, tmp_path / "a.zarr", request=Request(groups))).obs
    np.testing.assert_allclose(obs["size_factor"][:40], 5000, rtol=1e-5)
    drawn = obs["log_size_factor"][40:]
    # Four standard errors of a mean and of a standard deviation of 400.
    assert abs(drawn.mean() - 4.0) < 4 * 0.5 / 20
    assert abs(drawn.std() - 0.5) < 4 * 0.5 / np.sqrt(800)
    assert drawn.nunique() > 390  # chunks do not repeat one another


def test_counts_follow_the_size_factors(atlas_path: Path) -> None:
    atlas = anndata.read_zarr(atlas_path)
    totals = np.asarray(atlas.X.sum(1)).ravel()
    assert np.corrcoef(totals, atlas.obs["size_factor"])[0, 1] > 0.5


def test_scanpy_works_on_the_atlas(atlas_path: Path) -> None:
    import scanpy

    atlas = anndata.read_zarr(atlas_path).copy()
    scanpy.pp.normalize_total(atlas, target_sum=1e4)
    np.testing.assert_allclose(np.asarray(atlas.X.sum(1)).ravel(), 1e4, rtol=1e-4)
    scanpy.pp.log1p(atlas)
    scanpy.pp.pca(atlas, n_comps=5)
    assert np.isfinite(atlas.obsm["X_pca"]).all()


def test_provenance_names_model_seed_and_request(atlas_path: Path, model_path: Path) -> None:
    found = read_provenance(atlas_path)
    assert found["plan"]["model"] == CFGen.load(model_path).digest
    assert found["plan"]["seed"] == 0
    assert Request.from_json(found["plan"]["request"]) == REQUEST
    assert found["versions"]["torch"]


def test_same_bytes_again_and_with_other_threads(atlas_path: Path, model_path: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = generate(model_path, tmp_path / "atlas.zarr")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert tree_bytes(again) == tree_bytes(atlas_path)


def test_another_seed_gives_other_cells(atlas_path: Path, model_path: Path, tmp_path: Path) -> None:
    other = anndata.read_zarr(generate(model_path, tmp_path / "atlas.zarr", seed=1))
    assert not np.array_equal(other.X.toarray(), anndata.read_zarr(atlas_path).X.toarray())


def test_chunks_of_one_group_differ(atlas_path: Path) -> None:
    atlas = anndata.read_zarr(atlas_path)
    assert (atlas.obs["request_group"][:40] == 0).all()
    counts = atlas.X.toarray()
    assert not np.array_equal(counts[:20], counts[20:40])


def test_a_finished_atlas_is_left_alone(model_path: Path, tmp_path: Path) -> None:
    out = generate(model_path, tmp_path / "atlas.zarr")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert generate(model_path, out) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_stopped_run_writes_only_what_is_missing(
    atlas_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas.zarr"
    with monkeypatch.context() as patch:
        first = stop_after(patch, 4)
        with pytest.raises(OSError, match="No space left"):
            generate(model_path, out)
    assert not out.exists()
    second = stop_after(monkeypatch, CHUNKS)
    generate(model_path, out)
    assert (first, second) == ([0, 1, 2, 3], [4, 5, 6, 7, 8])
    assert tree_bytes(out) == tree_bytes(atlas_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": 7}, r"another seed \(0 there, 7 asked for\)"),
        ({"request": Request((Group(5),))}, "another request"),
        ({"chunk_cells": 21}, r"another chunk_cells \(20 there, 21 asked for\)"),
        ({"steps": 3}, "another ode"),
        ({"guidance_interval": (0.2, 0.8)}, "another ode"),
        ({"solver": "dopri5", "tolerance": 1e-3}, "another ode"),
        ({"content": "latents"}, r"another content \(counts there, latents asked for\)"),
    ],
)
def test_an_atlas_of_another_plan_is_refused(
    atlas_path: Path, model_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(FileExistsError, match=f"{says}.*Choose another path"):
        generate(model_path, atlas_path, **options)


def test_an_atlas_of_another_model_is_refused(atlas_path: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", weights_seed=1)
    with pytest.raises(FileExistsError, match="another model"):
        generate(other, atlas_path)


def test_an_unfinished_atlas_of_another_plan_or_version_is_refused(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas.zarr"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(OSError, match="No space left"):
            generate(model_path, out)
    with pytest.raises(FileExistsError, match=r"unfinished atlas of another seed \(0 there, 1 asked for\)"):
        generate(model_path, out, seed=1)
    partial = PartialAtlas.beside(out)
    plan = partial.read_plan()
    assert plan is not None
    plan["versions"]["torch"] = "1.0"
    partial.begin(plan)
    with pytest.raises(FileExistsError, match=r"another torch \(1\.0 there"):
        generate(model_path, out)


def test_a_plan_without_a_chunk_binds_nobody(model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "atlas.zarr"
    PartialAtlas.beside(out).begin({"plan": {"seed": 7}, "versions": {}, "machine": {}})
    generate(model_path, out)
    assert read_provenance(out)["plan"]["seed"] == 0


def test_a_work_directory_of_something_else_is_left_alone(model_path: Path, tmp_path: Path) -> None:
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    partial.path.mkdir()
    (partial.path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="was not begun by a generation"):
        generate(model_path, tmp_path / "atlas.zarr")
    assert [path.name for path in partial.path.iterdir()] == ["thesis.tex"]


def test_a_run_goes_on_where_the_same_machine_draws(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas.zarr"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(OSError, match="No space left"):
            generate(model_path, out)
    with monkeypatch.context() as patch:
        patch.setattr(AtlasWorker, "machine", lambda _: {**machine_here("cpu"), "instructions": "AVX2"})
        with pytest.raises(FileExistsError, match=r"another instructions \(.* there, AVX2 asked for\)"):
            generate(model_path, out)
    assert generate(model_path, out).exists()


def test_a_worker_on_another_machine_does_not_draw(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = iter(["AVX512", "AVX2"])
    monkeypatch.setattr(AtlasWorker, "machine", lambda _: {"instructions": next(machines)})
    with pytest.raises(RuntimeError, match="draws other cells than the one on which this atlas was begun"):
        generate(model_path, tmp_path / "atlas.zarr")
    assert PartialAtlas.beside(tmp_path / "atlas.zarr").chunks_there().tolist() == []


def test_a_model_saved_anew_during_a_run_draws_nothing(
    atlas_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = save_tiny_model(tmp_path / "model"), tmp_path / "atlas.zarr"
    write = AtlasWorker.write

    def saving(worker: AtlasWorker, chunk: Chunk) -> Receipt:
        if chunk.index == 1:
            save_tiny_model(model, weights_seed=1)
        # Each chunk by a worker of its own, which loads the model.
        return write(AtlasWorker(worker.model_path, worker.plan, worker.partial), chunk)

    monkeypatch.setattr(AtlasWorker, "write", saving)
    assert tree_bytes(generate(model, out)) == tree_bytes(atlas_path)


def test_a_worker_with_another_model_than_the_plans_does_not_draw(model_path: Path, tmp_path: Path) -> None:
    plan = make_plan(REQUEST, SCHEMA, model_digest="0" * 64, ode=CFGen.load(model_path).config.ode)
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    partial.begin({"machine": machine_here("cpu")})
    with pytest.raises(ValueError, match="this atlas is drawn by 000000000000"):
        AtlasWorker(model_path, plan, partial).write(next(plan.chunks()))
    assert partial.chunks_there().tolist() == []


def test_the_registry_is_named_and_decides_nothing(
    atlas_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, named = tmp_path / "atlas.zarr", {"name": "pbmc", "version": 3}
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(OSError, match="No space left"):
            generate(model_path, out, registered=named)
    generate(model_path, out)  # what the first run said stays
    assert read_provenance(out)["registered"] == named
    assert generate(model_path, out, registered={}) == out
    mine, other = tree_bytes(out), tree_bytes(atlas_path)
    differ = {file for file in mine if mine[file] != other[file]}
    assert {file.split("/")[0] for file in differ} == {"uns", "SHA256SUMS"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"request": Request((Group(5, {"cell_type": "b"}),))},
            SchemaError,
            "no category 'b'.*'B', 'NK'",
        ),
        ({"request": Request((Group(5, {"cell_type": "NK", "donor": "d3"}),))}, SchemaError, "'d3'"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"workers": 2, "use_ray": False}, ValueError, "2 workers need Ray"),
        ({"solver": "rk4"}, ValueError, "unknown solver 'rk4'"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"guidance_interval": (0.8, 0.2)}, ValueError, "between two times"),
        ({"tolerance": 1e-3}, ValueError, "midpoint takes fixed steps; a tolerance goes with dopri5"),
        ({"solver": "dopri5", "steps": 5}, ValueError, "dopri5 chooses its own steps"),
        ({"solver": "dopri5", "tolerance": 0.0}, ValueError, "tolerance must be positive"),
        ({"device": "gpu"}, ValueError, "'cpu' or 'cuda'"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    model_path: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        generate(model_path, tmp_path / "atlas.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_labels_that_never_occurred_together_cannot_be_drawn(tmp_path: Path) -> None:
    # A category of the schema without any training cell: the donor to go with it is not known.
    model = CFGen.load(save_tiny_model(tmp_path / "model"))
    occurring = model.frequencies.codes[:, 0] != 1
    model.frequencies = type(model.frequencies)(
        model.frequencies.codes[occurring], model.frequencies.cells[occurring]
    )
    path = model.save(tmp_path / "other")
    with pytest.raises(SchemaError, match="no training cell has"):
        generate(path, tmp_path / "atlas.zarr", request=Request((Group(5, {"cell_type": "NK"}),)))
    assert not PartialAtlas.beside(tmp_path / "atlas.zarr").path.exists()


def test_missing_model_and_uris_are_refused(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        generate(tmp_path / "nowhere", tmp_path / "atlas.zarr")
    with pytest.raises(ValueError, match="not behind a URI"):
        generate(model_path, "s3://bucket/atlas.zarr")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sees no GPU"):
        generate(model_path, tmp_path / "atlas.zarr", device="cuda")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_same_bytes_twice_on_a_gpu(model_path: Path, tmp_path: Path) -> None:
    one, other = (generate(model_path, tmp_path / name, device="cuda") for name in ("one", "other"))
    assert tree_bytes(one) == tree_bytes(other)
    with pytest.raises(FileExistsError, match=r"another device \(cuda there, cpu asked for\)"):
        generate(model_path, one)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_same_bytes_with_ray_workers(
    atlas_path: Path, model_path: Path, tmp_path: Path, workers: int, ray_cluster: None
) -> None:
    out = generate(model_path, tmp_path / "atlas.zarr", workers=workers, use_ray=True)
    assert tree_bytes(out) == tree_bytes(atlas_path)


@pytest.mark.ray
def test_the_chunk_of_a_killed_worker_is_written_by_another(
    model_path: Path, tmp_path: Path, ray_cluster: None
) -> None:
    model = CFGen.load(model_path)
    plan = make_plan(REQUEST, SCHEMA, model_digest=model.digest, ode=model.config.ode, chunk_cells=20)
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    partial.begin({"machine": machine_here("cpu")})
    worker = AtlasWorker(model_path, plan, partial)
    with partial.held(), crew_of(worker, workers=1) as crew:
        receipts = crew.write(plan.chunks())
        first = next(receipts)
        second = next(receipts)  # by now the first worker has a third chunk
        os.kill(second.pid, signal.SIGKILL)
        rest = list(receipts)
    assert sum(r.amount for r in (first, second, *rest)) == plan.n_cells
    assert rest[-1].pid != first.pid
    assert partial.chunks_there().tolist() == list(range(CHUNKS))


@pytest.mark.ray
def test_an_error_in_a_worker_is_raised_as_it_is(model_path: Path, tmp_path: Path, ray_cluster: None) -> None:
    model = CFGen.load(model_path)
    plan = make_plan(REQUEST, SCHEMA, model_digest=model.digest, ode=model.config.ode)
    partial = PartialAtlas.beside(tmp_path / "atlas.zarr")
    partial.begin({"machine": machine_here("cpu")})
    (partial.path / "chunks").write_text("nothing can be written into a file")
    with (
        pytest.raises(OSError, match=r"atlas\.zarr\.partial"),
        crew_of(AtlasWorker(model_path, plan, partial), workers=1) as crew,
    ):
        list(crew.write(plan.chunks()))


@pytest.mark.ray
def test_a_cluster_without_gpus_is_refused_before_anything_is_written(
    model_path: Path, tmp_path: Path, ray_cluster: None
) -> None:
    with pytest.raises(ValueError, match="the Ray cluster has no GPU"):
        generate(model_path, tmp_path / "atlas.zarr", device="cuda", workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_workers_that_the_cluster_has_no_place_for_are_told(
    model_path: Path,
    tmp_path: Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ray_crew, "PATIENCE", 0.2)
    model = CFGen.load(model_path)
    plan = make_plan(REQUEST, SCHEMA, model_digest=model.digest, ode=model.config.ode)
    worker = AtlasWorker(model_path, plan, PartialAtlas.beside(tmp_path / "atlas.zarr"))
    with crew_of(worker, workers=5, progress=True) as crew:  # of whom four have a place
        assert crew.machine() == machine_here("cpu")
    said = capsys.readouterr().err
    assert "of 5 workers are at work: they need a CPU each, and the Ray cluster has" in said
