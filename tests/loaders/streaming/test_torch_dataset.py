import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader

from loaders.preparation.prepared import Prepared
from loaders.streaming.stream import CellStream
from loaders.streaming.torch_dataset import CellDataset, TensorBatch, sparse_tensor


def loader_of(dataset: CellDataset) -> DataLoader[TensorBatch]:
    return DataLoader(dataset, batch_size=None)


@pytest.mark.parametrize("dense", [False, True])
def test_a_data_loader_gives_the_batches_of_the_stream(prepared: Prepared, dense: bool) -> None:
    expected = list(CellStream(prepared, batch_cells=64, epochs=1))
    loader = loader_of(CellDataset(CellStream(prepared, batch_cells=64), dense=dense))
    steps = 0
    for batch, plain in zip(loader, expected, strict=True):
        assert isinstance(batch, TensorBatch)
        counts = batch.counts["rna"]
        assert counts.dtype == torch.float32
        assert counts.layout == (torch.strided if dense else torch.sparse_csr)
        np.testing.assert_array_equal(counts.to_dense().numpy(), plain.counts[0].toarray())
        for tensor, array in (
            (batch.labels, plain.labels),
            (batch.rows, plain.rows),
            (batch.positions, plain.positions),
        ):
            assert tensor.dtype == torch.int64
            np.testing.assert_array_equal(tensor.numpy(), array)
        assert (batch.global_cells, batch.cells_seen) == (plain.global_cells, plain.cells_seen)
        steps += 1
    assert steps == len(expected)


def test_one_iteration_is_one_epoch(prepared: Prepared) -> None:
    dataset = CellDataset(CellStream(prepared, batch_cells=64, epochs=2))
    rows = [torch.cat([batch.rows for batch in loader_of(dataset)]).numpy() for _ in range(2)]
    for epoch in rows:
        np.testing.assert_array_equal(np.sort(epoch), prepared.rows("train"))
    assert (rows[0] != rows[1]).any()
    assert list(loader_of(dataset)) == []  # the two epochs of the stream are over


@pytest.mark.parametrize("stop_after", [1, 4])
def test_resuming_from_a_state_dict_continues(prepared: Prepared, stop_after: int) -> None:
    whole = [batch.rows for batch in loader_of(CellDataset(CellStream(prepared, batch_cells=64)))]
    dataset = CellDataset(CellStream(prepared, batch_cells=64))
    batches = iter(loader_of(dataset))
    for _ in range(stop_after):
        last = next(batches)
    state = dataset.state_dict()
    assert state == {"cells_seen": last.cells_seen} == {"cells_seen": 64 * stop_after}

    resumed = CellDataset(CellStream(prepared, batch_cells=64))
    resumed.load_state_dict(state)
    rest = [batch.rows for batch in loader_of(resumed)]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[stop_after:], strict=True))
    assert resumed.state_dict() == {"cells_seen": len(prepared.rows("train"))}


def test_a_state_between_batches_is_refused(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="is not where a batch begins"):
        CellDataset(CellStream(prepared, batch_cells=64)).load_state_dict({"cells_seen": 63})


def test_worker_processes_are_refused(prepared: Prepared) -> None:
    dataset = CellDataset(CellStream(prepared, batch_cells=64))
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(RuntimeError, match=r"Use DataLoader\(\.\.\., num_workers=0\)"):
        iter(loader)


def test_forked_worker_processes_are_refused(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a worker finds; a real fork of a process with threads may hang, and Python warns of it.
    monkeypatch.setattr("torch.utils.data._utils.worker._worker_info", object())
    with pytest.raises(RuntimeError, match=r"Use DataLoader\(\.\.\., num_workers=0\)"):
        iter(CellDataset(CellStream(prepared, batch_cells=64)))


def test_workers_share_global_batches(prepared: Prepared) -> None:
    alone = list(loader_of(CellDataset(CellStream(prepared, batch_cells=64))))
    shares = [
        list(loader_of(CellDataset(CellStream(prepared, batch_cells=64, rank=rank, world=3))))
        for rank in range(3)
    ]
    for step, whole in enumerate(alone):
        rows = torch.empty(whole.global_cells, dtype=torch.int64)
        for share in shares:
            rows[share[step].positions] = share[step].rows
        assert torch.equal(rows, whole.rows)


@pytest.mark.parametrize("dense", [False, True])
def test_a_loader_prepared_for_one_process_stands_one_batch_ahead(prepared: Prepared, dense: bool) -> None:
    from accelerate import Accelerator, DataLoaderConfiguration

    expected = list(CellStream(prepared, batch_cells=64, epochs=1))
    dataset = CellDataset(CellStream(prepared, batch_cells=64), dense=dense, keep=2)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False))
    loader = accelerator.prepare(loader_of(dataset))
    for batch, plain in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(batch.rows.numpy(), plain.rows)
        np.testing.assert_array_equal(batch.counts["rna"].to_dense().numpy(), plain.counts[0].toarray())
        # Hence: resume from the batch, not from the dataset.
        one_ahead = min(batch.cells_seen + 64, len(prepared.rows("train")))
        assert dataset.state_dict() == {"cells_seen": one_ahead}


def test_a_model_trains_on_it_and_resumes_to_the_same_weights(prepared: Prepared) -> None:
    """A softmax regression of cell types on counts: plain PyTorch, interrupted in its second epoch."""

    def train(model: torch.nn.Linear, dataset: CellDataset, until: int) -> list[float]:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
        losses = []
        while True:
            for batch in loader_of(dataset):
                loss = torch.nn.functional.cross_entropy(
                    batch.counts["rna"] @ model.weight.T + model.bias, batch.labels[:, 0], ignore_index=-1
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
                if batch.cells_seen >= until:
                    return losses

    def new_model() -> torch.nn.Linear:
        torch.manual_seed(0)
        return torch.nn.Linear(50, 2)

    def dataset(state: dict[str, int] | None = None) -> CellDataset:
        made = CellDataset(CellStream(prepared, batch_cells=64))
        made.load_state_dict(state or {"cells_seen": 0})
        return made

    n = len(prepared.rows("train"))
    whole = new_model()
    losses = train(whole, dataset(), 4 * n)
    assert np.mean(losses[-8:]) < np.mean(losses[:8])

    parts, first = new_model(), dataset()
    train(parts, first, n + 128)
    train(parts, dataset(first.state_dict()), 4 * n)
    assert torch.equal(whole.weight, parts.weight)


@pytest.mark.parametrize("indices", [np.uint16, np.int32, np.int64])
def test_sparse_tensors_of_narrow_counts(indices: type) -> None:
    counts = csr_matrix(np.array([[0, 2, 0], [0, 0, 0], [1, 0, 255]], dtype=np.uint8))
    counts.indices = counts.indices.astype(indices)
    tensor = sparse_tensor(counts)
    assert tensor.crow_indices().dtype == (torch.int64 if indices is np.int64 else torch.int32)
    assert tensor.to_dense().tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 255]]
