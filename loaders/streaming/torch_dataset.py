"""The stream of cells as a PyTorch dataset, for Lightning, accelerate and plain loops over a DataLoader.

    dataset = CellDataset(CellStream(prepared, batch_cells=4096, rank=rank, world=world))
    for epoch in range(10):
        for batch in DataLoader(dataset, batch_size=None):
            loss = model(batch.counts["rna"].to(device), batch.labels.to(device))

The stream has made the batches, read them ahead in threads, and shared them out over the workers. What
usually does so must therefore not do it again:

- ``batch_size=None``: a DataLoader would make batches of batches.
- ``num_workers=0``: processes would each read everything, and copy it; they are refused.
- accelerate: prepare the model and the optimiser, not this loader, and give the stream
  ``rank=accelerator.process_index, world=accelerator.num_processes``. Of an iterable dataset, a prepared
  loader reads in process 0 alone, joins as many of its batches as there are processes, and cuts them up (of
  sparse tensors it cannot, and says so). Only with one process and
  ``DataLoaderConfiguration(dispatch_batches=False)`` does ``prepare`` hand the batches on as they are.
- Lightning leaves iterable datasets whole: give the stream rank and world likewise.

A loader prepared by accelerate, and Lightning, take one batch ahead of the one you train on. ``state_dict``
then stands behind that one: resume from the ``cells_seen`` of the last batch you used, and with
``dense=True`` set ``keep=2``.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import IterableDataset, get_worker_info

from cfgen_scale.types import CellBatch
from loaders.streaming.dense import DenseRing, require_keep
from loaders.streaming.stream import CellStream

NO_PROCESSES = (
    "CellDataset runs in the process that trains: its threads already read ahead, and worker processes would "
    "each read all batches and copy them. Use DataLoader(..., num_workers=0)."
)


class TensorBatch(NamedTuple):
    """One worker's share of one global batch, as tensors; a named tuple, so that any trainer can move it.

    counts        per modality (B, G) float32 of raw counts: sparse CSR with int32 or int64 indices, or dense
    labels        (B, K) int64, -1 = not told
    rows          (B,) int64, row of each cell in the prepared atlas
    positions     (B,) int64, place of each cell in the global batch
    global_cells  cells of the global batch over all workers: where shares are unequal, weight losses by it
    cells_seen    position behind this batch: resume with ``load_state_dict({"cells_seen": cells_seen})``
    """

    counts: dict[str, torch.Tensor]
    labels: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    global_cells: int
    cells_seen: int


class CellDataset(IterableDataset[TensorBatch]):
    """The batches of ``stream`` as `TensorBatch`; one iteration is one epoch, or the rest of one begun.

    dense  counts as dense tensors in buffers that are used again (pinned where there is a GPU), valid until
           ``keep`` further batches have been asked for: see `loaders.streaming.dense.DenseBatches`
    """

    def __init__(self, stream: CellStream, *, dense: bool = False, keep: int = 1) -> None:
        require_keep(keep)
        self.stream = stream
        self._modalities = tuple(m.name for m in stream.prepared.schema.modalities)
        self._dense = dense
        self._keep = keep

    def __iter__(self) -> Iterator[TensorBatch]:
        if get_worker_info() is not None:  # a forked process
            raise RuntimeError(NO_PROCESSES)
        hand_over = self._hand_over_dense() if self._dense else self._hand_over_sparse
        return self.stream.epoch(hand_over)

    def __getstate__(self) -> None:
        raise RuntimeError(NO_PROCESSES)  # about to be sent to a spawned process

    def state_dict(self) -> dict[str, int]:
        """The position behind the last batch given out."""
        return {"cells_seen": self.stream.state}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration begin there. Raises ValueError if no batch begins there."""
        self.stream.seek(state["cells_seen"])

    def _hand_over_sparse(self, batch: CellBatch, turn: int) -> TensorBatch:
        return self._tensors(batch, tuple(sparse_tensor(counts) for counts in batch.counts))

    def _hand_over_dense(self) -> Callable[[CellBatch, int], TensorBatch]:
        ring = DenseRing(self._keep + self.stream.read_ahead)
        return lambda batch, turn: self._tensors(batch, ring.fill(batch, turn))

    def _tensors(self, batch: CellBatch, counts: tuple[torch.Tensor, ...]) -> TensorBatch:
        return TensorBatch(
            counts=dict(zip(self._modalities, counts, strict=True)),
            labels=torch.from_numpy(batch.labels),
            rows=torch.from_numpy(batch.rows),
            positions=torch.from_numpy(batch.positions),
            global_cells=batch.global_cells,
            cells_seen=batch.cells_seen,
        )


def sparse_tensor(counts: csr_matrix) -> torch.Tensor:
    """``counts`` (B, G) as a torch CSR tensor, float32, with int32 or (where one is) int64 indices."""
    index = np.int64 if counts.indices.dtype == np.int64 or counts.indptr.dtype == np.int64 else np.int32
    return torch.sparse_csr_tensor(
        torch.from_numpy(counts.indptr.astype(index, copy=False)),
        torch.from_numpy(counts.indices.astype(index, copy=False)),
        torch.from_numpy(counts.data.astype(np.float32, copy=False)),
        size=counts.shape,
        check_invariants=False,
    )


def _warm_up() -> None:
    """Hear once, here, what PyTorch says once per process of CSR tensors ("in beta state")."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        sparse_tensor(csr_matrix((1, 1), dtype=np.float32))


_warm_up()
