"""The atlas is encoded once, by all workers, and again only when autoencoder or cells are other ones."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import jobs.training.encode
from cfgen_scale.model import CFGen
from jobs.training.encode import AtlasLatents, encode_atlas
from jobs.training.run_directory import RunDirectory
from loaders.preparation.prepared import Prepared
from tests.small_atlas import N_TRAIN, N_VALIDATION
from tests.tree_bytes import tree_bytes

CHUNK = 50  # 257 training cells are five whole chunks and one of seven


class Group:
    """Workers that are threads of this process, with what encoding needs of their Accelerators."""

    def __init__(self, world: int) -> None:
        self.world, self.barrier, self.given = world, threading.Barrier(world, timeout=60), [0.0] * world

    def accelerator(self, rank: int) -> Any:
        def reduce(value: torch.Tensor, reduction: str) -> torch.Tensor:
            assert reduction == "sum"
            self.given[rank] = float(value)
            self.barrier.wait()
            total = torch.tensor(sum(self.given))
            self.barrier.wait()
            return total

        return SimpleNamespace(
            process_index=rank,
            num_processes=self.world,
            is_main_process=rank == 0,
            device=torch.device("cpu"),
            reduce=reduce,
            wait_for_everyone=self.barrier.wait,
        )


@pytest.fixture
def encoded_cells(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks are small; the list fills with the numbers of cells that are encoded at a time."""
    monkeypatch.setattr(jobs.training.encode, "CHUNK_CELLS", CHUNK)
    encode, cells = jobs.training.encode.encode_counts, []

    def counting(autoencoder: Any, counts: Any, device: Any) -> torch.Tensor:
        cells.append(counts[0].shape[0])
        return encode(autoencoder, counts, device)

    monkeypatch.setattr(jobs.training.encode, "encode_counts", counting)
    return cells


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return finished_autoencoder(tmp_path / "run", b"weights")


def finished_autoencoder(path: Path, content: bytes) -> RunDirectory:
    """A run whose autoencoder is finished; which one it is says its file."""
    run = RunDirectory(path)
    run.result("autoencoder").parent.mkdir(parents=True, exist_ok=True)
    run.result("autoencoder").write_bytes(content)
    return run


def encode(trained: Path, data: Path, run: RunDirectory, world: int = 1) -> list[AtlasLatents]:
    """What each of ``world`` workers gets."""
    autoencoder, group = CFGen.load(trained / "model").autoencoder, Group(world)
    with ThreadPoolExecutor(world) as threads:
        workers = [
            threads.submit(encode_atlas, autoencoder, Prepared.open(data), run, group.accelerator(rank))
            for rank in range(world)
        ]
        return [worker.result() for worker in workers]


@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_write_what_one_writes(
    trained: Path,
    small_prepared: Path,
    tmp_path: Path,
    run: RunDirectory,
    world: int,
    encoded_cells: list[int],
) -> None:
    (alone,) = encode(trained, small_prepared, run)
    shared = finished_autoencoder(tmp_path / "shared", b"weights")
    encoded_cells.clear()
    for latents in encode(trained, small_prepared, shared, world):
        assert torch.equal(latents.training, alone.training)
        assert torch.equal(latents.validation, alone.validation)
    assert tree_bytes(shared.latents) == tree_bytes(run.latents)
    assert sum(encoded_cells) == N_TRAIN + N_VALIDATION


def test_latents_are_those_of_the_cells_in_the_order_of_their_rows(
    trained: Path, small_prepared: Path, run: RunDirectory
) -> None:
    model, prepared = CFGen.load(trained / "model"), Prepared.open(small_prepared)
    (latents,) = encode(trained, small_prepared, run)
    for split, found in (("train", latents.training), ("validation", latents.validation)):
        expected = model.encode(prepared.read(prepared.rows(split)))
        torch.testing.assert_close(model.whitening.whiten(found), expected)


def test_a_second_pass_reads_what_the_first_wrote(
    trained: Path, small_prepared: Path, run: RunDirectory, encoded_cells: list[int]
) -> None:
    (first,) = encode(trained, small_prepared, run)
    encoded_cells.clear()
    (second,) = encode(trained, small_prepared, run)
    assert encoded_cells == []
    assert torch.equal(first.training, second.training)


def test_another_autoencoder_encodes_again(
    trained: Path, small_prepared: Path, run: RunDirectory, encoded_cells: list[int]
) -> None:
    encode(trained, small_prepared, run)
    encoded_cells.clear()
    encode(trained, small_prepared, finished_autoencoder(run.path, b"other weights"))
    assert sum(encoded_cells) == N_TRAIN + N_VALIDATION


def test_other_cells_are_encoded_again(
    trained: Path, small_prepared: Path, run: RunDirectory, tmp_path: Path, encoded_cells: list[int]
) -> None:
    from loaders.preparation.prepare import prepare

    encode(trained, small_prepared, run)
    source = small_prepared.parent / "atlas.h5ad"
    other = prepare(source, tmp_path / "p", labels=["cell_type"], min_cells_per_gene=0, progress=False)
    encoded_cells.clear()
    (latents,) = encode(trained, tmp_path / "p", run)
    assert len(latents.training) == len(other.rows("train")) != N_TRAIN
    assert sum(encoded_cells) == len(latents.training) + len(latents.validation)


def test_what_a_killed_pass_left_is_not_taken_for_latents(
    trained: Path, small_prepared: Path, run: RunDirectory, encoded_cells: list[int]
) -> None:
    (whole,) = encode(trained, small_prepared, run)
    cache = run.latents / "train.zarr"
    zarr.open_group(cache, mode="r+").attrs["complete"] = False
    (cache / "latents" / "c" / "2" / "0").unlink()
    encoded_cells.clear()
    (again,) = encode(trained, small_prepared, run)
    assert sum(encoded_cells) == N_TRAIN, "the validation cells were complete"
    np.testing.assert_array_equal(again.training, whole.training)
