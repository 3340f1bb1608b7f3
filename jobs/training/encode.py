"""The atlas encoded once, by all workers, for the flow to train on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy.sparse import csr_matrix

from cfgen_scale.autoencoder import Autoencoder
from cfgen_scale.counts import SparseCounts
from loaders.latents import CHUNK_CELLS, create_latents, finish_latents, open_latents, write_latents
from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import in_order

from .agreement import wait_for
from .run_directory import RunDirectory

if TYPE_CHECKING:
    from accelerate import Accelerator

ENCODED_AT_ONCE = 512


@dataclass(frozen=True)
class AtlasLatents:
    """Latents (n, D) float32 of the training and of the validation cells, in the order of their rows, and
    the digest of what they were made of."""

    training: torch.Tensor
    validation: torch.Tensor
    key: str


def encode_atlas(
    autoencoder: Autoencoder, prepared: Prepared, run: RunDirectory, accelerator: "Accelerator"
) -> AtlasLatents:
    """Latents of this run's trained autoencoder: read from ``RUN/latents`` where they are complete, else
    encoded by all workers and kept there. The key is the digest of autoencoder and arrangement. Workers
    that share no run directory exchange what each has encoded."""
    described = f"{run.digest_of_autoencoder}:{prepared.arrangement}"
    key = hashlib.sha256(described.encode()).hexdigest()
    if run.shared:
        training, validation = (
            _latents_of(autoencoder, prepared, split, run.latents / f"{split}.zarr", key, accelerator)
            for split in ("train", "validation")
        )
    else:
        training, validation = (
            _exchanged(autoencoder, prepared, split, accelerator) for split in ("train", "validation")
        )
    return AtlasLatents(training, validation, key)


def _exchanged(
    autoencoder: Autoencoder, prepared: Prepared, split: str, accelerator: "Accelerator"
) -> torch.Tensor:
    """Latents (n, D) of a split on the CPU of every worker, each having encoded its share of the chunks."""
    latents = torch.zeros(len(prepared.rows(split)), autoencoder.config.latent, device=accelerator.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    for batch in in_order(prepared, split, CHUNK_CELLS, rank=rank, world=world):
        first = batch.cells_seen - len(batch.rows)
        latents[first : batch.cells_seen] = encode_counts(autoencoder, batch.counts, accelerator.device)
    # All but one of the terms of each sum are zero.
    return accelerator.reduce(latents, "sum").cpu()


def _latents_of(
    autoencoder: Autoencoder,
    prepared: Prepared,
    split: str,
    path: Path,
    key: str,
    accelerator: "Accelerator",
) -> torch.Tensor:
    rows = prepared.rows(split)
    if not len(rows):
        return torch.empty(0, autoencoder.config.latent)
    found = open_latents(path, key=key)
    # Every worker must take the same branch, also where one sees the file system late.
    complete = accelerator.reduce(torch.tensor(float(found is not None), device=accelerator.device), "sum")
    if int(complete) < accelerator.num_processes:
        _encode_split(autoencoder, prepared, split, path, key, accelerator)
        found = open_latents(path, key=key)
    if found is None:
        raise FileNotFoundError(
            f"the latents at {path} that were just written cannot be seen by worker "
            f"{accelerator.process_index}: the run directory must be on a file system that all workers share."
        )
    return torch.from_numpy(found.values)


def _encode_split(
    autoencoder: Autoencoder,
    prepared: Prepared,
    split: str,
    path: Path,
    key: str,
    accelerator: "Accelerator",
) -> None:
    rank, world = accelerator.process_index, accelerator.num_processes
    if accelerator.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        create_latents(
            path, prepared.rows(split), autoencoder.config.latent, key=key, chunk_cells=CHUNK_CELLS
        )
    accelerator.wait_for_everyone()
    wait_for(path / "zarr.json")
    for batch in in_order(prepared, split, CHUNK_CELLS, rank=rank, world=world):
        first = batch.cells_seen - len(batch.rows)
        latents = encode_counts(autoencoder, batch.counts, accelerator.device)
        write_latents(path, first, latents.cpu().numpy())
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish_latents(path)
    accelerator.wait_for_everyone()


@torch.no_grad()
def encode_counts(
    autoencoder: Autoencoder, counts: Sequence[csr_matrix], device: torch.device
) -> torch.Tensor:
    """Latents (n, D) float32 of raw counts (n, G) per modality, a few hundred dense cells at a time."""
    starts = range(0, counts[0].shape[0], ENCODED_AT_ONCE)
    parts = [[SparseCounts.from_csr(c[i : i + ENCODED_AT_ONCE], device) for c in counts] for i in starts]
    return torch.cat([autoencoder.encode(part) for part in parts])
