from dataclasses import replace

import numpy as np
import pytest

from cfgen_scale.types import IntArray
from loaders.streaming.order import BatchPlan, Order, default_lanes, sequential
from loaders.streaming.shuffled_blocks import Blocks

WORLDS = (1, 2, 3, 4, 7, 8)
BOTH = ("uniform", "blocks")


def order_of(n_cells: int, batch_cells: int, seed: int, granularity: str) -> Order:
    """Of blocks: blocks of 1 to 100 cells, as a split leaves them of a store's slabs."""
    if granularity == "uniform":
        return Order(n_cells, batch_cells, seed)
    random = np.random.default_rng(n_cells)
    ends = np.cumsum(random.integers(1, 100, n_cells))
    begins = np.append(0, np.append(ends[ends < n_cells], n_cells))
    return Order(n_cells, batch_cells, seed, blocks=Blocks(begins))


def global_batch(order: Order, cells_seen: int, world: int) -> tuple[IntArray, BatchPlan]:
    """Places of a global batch by position, joined from the shares of ``world`` workers."""
    plans = [order.batch(cells_seen, rank=rank, world=world) for rank in range(world)]
    positions = np.concatenate([plan.positions for plan in plans])
    assert {plan.global_cells for plan in plans} == {len(positions)}
    assert len({plan.cells_seen_after for plan in plans}) == 1
    np.testing.assert_array_equal(np.sort(positions), np.arange(len(positions)))
    return np.concatenate([plan.places for plan in plans])[np.argsort(positions)], plans[0]


def epoch_batches(order: Order, *, epoch: int = 0, world: int = 1) -> list[IntArray]:
    cells_seen, batches = epoch * order.n_cells, []
    while cells_seen < (epoch + 1) * order.n_cells:
        places, plan = global_batch(order, cells_seen, world)
        assert plan.cells_seen_after == cells_seen + len(places) == order.after(cells_seen)
        batches.append(places)
        cells_seen = plan.cells_seen_after
    assert len(batches) == order.steps_per_epoch
    return batches


@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize(("n_cells", "batch_cells"), [(1003, 32), (3000, 100), (640, 64), (20, 64)])
def test_global_batches_do_not_depend_on_the_number_of_workers(
    granularity: str, n_cells: int, batch_cells: int
) -> None:
    order = order_of(n_cells, batch_cells, 3, granularity)
    alone = epoch_batches(order)
    for world in WORLDS[1:]:
        for one, other in zip(alone, epoch_batches(order, world=world), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize(
    ("n_cells", "batch_cells"), [(1, 1), (1, 8), (63, 64), (64, 64), (1003, 96), (999, 7)]
)
def test_every_cell_once_an_epoch_ragged_tail_included(
    granularity: str, n_cells: int, batch_cells: int
) -> None:
    for epoch in (0, 3):
        batches = epoch_batches(order_of(n_cells, batch_cells, 0, granularity), epoch=epoch)
        assert [len(b) for b in batches[:-1]] == [batch_cells] * (len(batches) - 1)
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n_cells))


@pytest.mark.parametrize("granularity", BOTH)
def test_resuming_anywhere_with_another_number_of_workers_continues(granularity: str) -> None:
    order = order_of(500, 64, 1, granularity)
    cells_seen, expected = 0, []
    for _ in range(20):
        places, plan = global_batch(order, cells_seen, 2)
        expected.append((cells_seen, places))
        cells_seen = plan.cells_seen_after
    fresh = replace(order)
    for start, places in reversed(expected):
        np.testing.assert_array_equal(global_batch(fresh, start, 7)[0], places)


@pytest.mark.parametrize("granularity", BOTH)
def test_epochs_and_seeds_differ(granularity: str) -> None:
    order = order_of(1000, 50, 0, granularity)
    first = np.concatenate(epoch_batches(order))
    for other in (epoch_batches(order, epoch=1), epoch_batches(replace(order, seed=1))):
        # 1 of 1000 cells keeps its place on average; blocks may keep a few more.
        assert (first == np.concatenate(other)).sum() < 30


def test_uniform_order_mixes_the_whole_split() -> None:
    sequence = np.concatenate(epoch_batches(Order(10_000, 100, 0)))
    assert abs(np.corrcoef(sequence, np.arange(10_000))[0, 1]) < 0.05
    assert (np.abs(np.diff(sequence)) == 1).sum() < 10


@pytest.mark.parametrize("granularity", BOTH)
def test_one_worker_meets_all_donors_of_an_atlas_sorted_by_donor(granularity: str) -> None:
    n_cells, donors = 400_000, 40
    order = order_of(n_cells, 4096, 0, granularity)
    plans = [order.batch(step * 4096, rank=3, world=8) for step in range(order.steps_per_epoch)]
    cells = np.bincount(np.concatenate([plan.places for plan in plans]) * donors // n_cells, minlength=donors)
    # 50,000 cells of this worker: 1,250 of each donor, in some 20 blocks
    assert cells.min() > 500
    assert cells.max() < 2500


def test_a_lane_reads_one_block_at_a_time_and_each_once() -> None:
    order = Order(100_000, 64, 0, blocks=Blocks.equal(100_000, 64))
    batches = [order.batch(step * 64).places // 64 for step in range(order.steps_per_epoch)]
    for lane in (0, 31, 63):
        blocks = np.array([batch[lane] for batch in batches[:-1]])
        # A lane has 1,562 cells: 25 blocks, and those that it shares with its neighbours.
        assert len(np.unique(blocks)) <= 27
        assert (np.diff(blocks) != 0).sum() == len(np.unique(blocks)) - 1


def test_lanes_begin_their_blocks_at_different_times() -> None:
    """Otherwise all of them would have to read at once, and then none for long."""
    order = Order(2_048 * 500, 4_096, 0, blocks=Blocks.equal(2_048 * 500, 2_048))
    seen: set[int] = set()
    new = []
    for step in range(120):
        blocks = set((order.batch(step * 4_096).places // 2_048).tolist())
        new.append(len(blocks - seen))
        seen |= blocks
    assert new[0] == 64
    assert max(new[1:]) <= 10


def test_blocks_of_other_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 20 cells are not those of 30 cells"):
        Order(30, 10, 0, blocks=Blocks.equal(20, 5))


def test_lanes_that_do_not_divide_the_batch_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"batch of 100 cells .* 64 lanes\. .* multiple of 64, such as 128"):
        Order(1000, 100, 0, lanes=64)


@pytest.mark.parametrize(
    ("batch_cells", "lanes"), [(32, 32), (64, 64), (96, 48), (100, 50), (4096, 64), (7, 7)]
)
def test_default_lanes_follow_the_batch(batch_cells: int, lanes: int) -> None:
    assert default_lanes(batch_cells) == lanes


def test_more_workers_than_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"9 workers cannot share the 8 lanes"):
        Order(1000, 8, 0).batch(0, rank=0, world=9)
    with pytest.raises(ValueError, match=r"rank 2 is not one of 2 workers"):
        Order(1000, 8, 0).batch(0, rank=2, world=2)


@pytest.mark.parametrize("cells_seen", [-64, 1, 63, 999, 1001])
def test_a_position_between_batches_is_refused(cells_seen: int) -> None:
    with pytest.raises(ValueError, match="is not where a batch begins"):
        Order(1000, 64, 0).batch(cells_seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_cells": 0}, "the split is empty"),
        ({"batch_cells": 0}, "batch_cells must be at least 1"),
    ],
)
def test_settings_that_cannot_be(setting: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Order(100, 10, 0), **{"lanes": None, **setting})


def test_golden_table() -> None:
    """The order is part of what a run can be resumed from: it must not change between versions."""
    uniform = Order(10, 4, 7)
    assert [b.tolist() for b in epoch_batches(uniform)] == [[1, 9, 2, 4], [3, 0, 7, 6], [5, 8]]
    blocks = Order(10, 4, 7, 2, blocks=Blocks.equal(10, 2))
    assert [b.tolist() for b in epoch_batches(blocks)] == [[8, 9, 3, 5], [6, 7, 4, 0], [2, 1]]


def test_planning_needs_no_memory_of_the_atlas() -> None:
    # A permutation kept in memory would need 8 TB here.
    plan = Order(10**12, 4096, 0).batch(4096 * 10**6, rank=3, world=8)
    assert len(plan.places) == 512
    assert plan.places.max() < 10**12


@pytest.mark.parametrize("world", [1, 3])
def test_sequential_pass_covers_all_cells_in_whole_batches(world: int) -> None:
    plans = [plan for rank in range(world) for plan in sequential(100, 16, rank=rank, world=world)]
    plans.sort(key=lambda plan: plan.places[0])
    np.testing.assert_array_equal(np.concatenate([p.places for p in plans]), np.arange(100))
    assert [p.global_cells for p in plans] == [16] * 6 + [4]
    assert [p.cells_seen_after for p in plans] == [16, 32, 48, 64, 80, 96, 100]
    assert list(sequential(0, 16)) == []


def test_orders_of_one_digest_are_one_sequence() -> None:
    def blocks(cells: int) -> Order:
        return Order(100, 10, 0, blocks=Blocks.equal(100, cells))

    orders = [
        Order(100, 10, 0),
        Order(100, 10, 1),
        Order(100, 20, 0),
        Order(100, 10, 0, 5),
        blocks(7),
        blocks(9),
    ]
    assert len({order.digest for order in orders}) == len(orders)
    assert blocks(7).digest == blocks(7).digest
