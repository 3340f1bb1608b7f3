"""--to soma: the same experiment whoever writes it, however often it was stopped, generated or decoded."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfgen_scale.model import CFGen
from jobs.cli import main
from jobs.generation.chunk_workers import AtlasWorker
from jobs.generation.crew import crew_of
from jobs.generation.generate import decode_atlas, generate_atlas
from jobs.generation.plan import make_plan
from jobs.generation.request import Group, Request
from jobs.generation.soma_beside import soma_of
from loaders.atlases.soma_slab_writer import SlabWriter
from loaders.atlases.soma_tasks import SomaTask
from loaders.atlases.soma_writer import SomaAssembly
from loaders.atlases.writer import PartialAtlas
from tests.soma_contents import fragments_of, small_slabs, soma_contents
from tests.tiny_model import SCHEMA
from tests.tree_bytes import tree_bytes

CELLS = 5_000  # three tiles of 2,048
REQUEST = Request((Group(3_000, {"cell_type": "NK"}, untold=("donor",)), Group(2_000)))
SLABS = {"obs": 3, "ms/RNA/obsm/X_cfgen": 3, "ms/RNA/X/counts": 3}


@pytest.fixture(autouse=True, scope="module")
def _small_slabs() -> Iterator[None]:
    with small_slabs():
        yield


def generate(model_path: Path, out: Path, **options: Any) -> Path:
    settings = {"chunk_cells": 1_000, "progress": False, "to_soma": True, **options}
    return generate_atlas(model_path, out, settings.pop("request", REQUEST), **settings)


@pytest.fixture(scope="module")
def atlas(model_path: Path, _small_slabs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both forms, written in one go by this process."""
    return generate(model_path, tmp_path_factory.mktemp("atlas") / "atlas.zarr")


@pytest.fixture(scope="module")
def whole(atlas: Path) -> dict[str, Any]:
    return soma_contents(soma_of(atlas))


def stop_after(monkeypatch: pytest.MonkeyPatch, n_slabs: int) -> list[str]:
    """Let writing fail after n slabs as a full disk does; returns a list that fills with those written."""
    written: list[str] = []
    run = SlabWriter.run

    def failing(writer: SlabWriter, task: SomaTask) -> None:
        if len(written) == n_slabs:
            raise OSError(28, "No space left on device")
        run(writer, task)
        written.append(task.name)

    monkeypatch.setattr(SlabWriter, "run", failing)
    return written


def test_a_stopped_one_goes_on_with_what_is_missing(
    whole: dict[str, Any], model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas.zarr"
    with monkeypatch.context() as patch:
        first = stop_after(patch, 4)
        with pytest.raises(OSError, match="No space left"):
            generate(model_path, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas.soma.partial", "atlas.zarr"]
    before = tree_bytes(out)
    second = stop_after(monkeypatch, sum(SLABS.values()))
    monkeypatch.setattr(AtlasWorker, "write", None)  # the atlas is complete: no chunk is drawn
    generate(model_path, out)
    assert len(first) == 4
    assert len(second) == sum(SLABS.values()) - 4
    assert set(first).isdisjoint(second)
    assert soma_contents(soma_of(out)) == whole
    assert fragments_of(soma_of(out)) == SLABS | {"ms/RNA/var": 1}
    assert tree_bytes(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas.soma", "atlas.zarr"]


def test_what_a_run_left_that_was_killed_at_the_end_is_removed(
    whole: dict[str, Any], model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "atlas.zarr"
    generate(model_path, out, to_soma=False)
    with monkeypatch.context() as patch:
        patch.setattr(PartialAtlas, "remove", lambda _: None)
        generate(model_path, out)
    assert PartialAtlas.beside(soma_of(out)).path.exists()
    generate(model_path, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas.soma", "atlas.zarr"]
    assert soma_contents(soma_of(out)) == whole


def test_two_processes_do_not_write_one(atlas: Path, model_path: Path, tmp_path: Path) -> None:
    out = generate(model_path, tmp_path / "atlas.zarr", to_soma=False)
    with (
        PartialAtlas.beside(soma_of(out)).held(),
        pytest.raises(RuntimeError, match=rf"another process \(pid {os.getpid()} on .*atlas\.soma\.partial"),
    ):
        generate(model_path, out)


def test_latents_are_decoded_to_soma(whole: dict[str, Any], model_path: Path, tmp_path: Path) -> None:
    latents = generate(model_path, tmp_path / "latents.zarr", content="latents", to_soma=False)
    line = f"decode {latents} --model {model_path} --out {tmp_path / 'atlas.zarr'} --to soma"
    assert main(line.split()) == 0
    assert soma_contents(tmp_path / "atlas.soma") == whole


def test_bad_orders_are_refused_before_any_work(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--to soma writes counts"):
        generate(model_path, tmp_path / "atlas.zarr", content="latents")
    (tmp_path / "atlas.soma.partial").mkdir()
    with pytest.raises(FileExistsError, match=r"atlas\.soma\.partial exists, and the atlas .* does not"):
        generate(model_path, tmp_path / "atlas.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.soma.partial"]


@pytest.mark.ray
def test_ray_workers_write_the_same(
    atlas: Path, whole: dict[str, Any], model_path: Path, tmp_path: Path, ray_cluster: None
) -> None:
    out = generate(model_path, tmp_path / "atlas.zarr", workers=2)
    assert tree_bytes(out) == tree_bytes(atlas)
    assert soma_contents(soma_of(out)) == whole
    assert fragments_of(soma_of(out)) == fragments_of(soma_of(atlas))


@pytest.mark.ray
def test_ray_workers_decode_the_same_and_finish_what_one_process_began(
    whole: dict[str, Any],
    model_path: Path,
    tmp_path: Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latents = generate(model_path, tmp_path / "latents.zarr", content="latents", to_soma=False)
    options: dict[str, Any] = {"to_soma": True, "progress": False}
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(OSError, match="No space left"):
            decode_atlas(model_path, latents, tmp_path / "atlas.zarr", **options)
    out = decode_atlas(model_path, latents, tmp_path / "atlas.zarr", workers=2, **options)
    assert soma_contents(soma_of(out)) == whole
    assert fragments_of(soma_of(out)) == SLABS | {"ms/RNA/var": 1}


@pytest.mark.ray
def test_the_slab_of_a_killed_worker_is_written_by_another(
    atlas: Path, whole: dict[str, Any], model_path: Path, tmp_path: Path, ray_cluster: None
) -> None:
    model = CFGen.load(model_path)
    plan = make_plan(REQUEST, SCHEMA, model_digest=model.digest, ode=model.config.ode)
    out = tmp_path / "atlas.soma"
    partial = PartialAtlas.beside(out)
    worker = AtlasWorker(model_path, plan, partial)
    with partial.held(), crew_of(worker, workers=1) as crew:
        soma = SomaAssembly.of(atlas, out)
        receipts = crew.assemble(soma.tasks(), soma.writer)
        first = next(receipts)  # by now the worker is at the next slab
        os.kill(first.pid, signal.SIGKILL)
        rest = list(receipts)
        assert {receipt.pid for receipt in rest} - {first.pid}
        soma.complete(out)
    assert sum(receipt.amount for receipt in (first, *rest)) == soma.n_bytes
    assert soma_contents(out) == whole
    assert fragments_of(out) == fragments_of(soma_of(atlas))
