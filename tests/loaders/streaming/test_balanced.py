import numpy as np
import pytest

from cfgen_scale.types import IntArray, SchemaError
from loaders.preparation.prepared import Prepared
from loaders.streaming.balanced import Balance, BalancedOrder, draws_of_classes
from loaders.streaming.order import BatchPlan
from loaders.streaming.stream import CellStream

WORLDS = (1, 2, 3, 4, 7, 8)
LONG_TAIL = np.array([4000, 2000, 1000, 500, 250, 125, 60, 30, 7, 1])


def long_tail(cap: float = 10.0, batch_cells: int = 96, seed: int = 3) -> tuple[BalancedOrder, IntArray]:
    """A balanced order of 7,973 cells of 10 classes, of which the last is the unlabelled; and the classes."""
    classes = np.repeat([*range(9), -1], LONG_TAIL)
    np.random.default_rng(0).shuffle(classes)
    return BalancedOrder(classes, batch_cells, seed, cap=cap), classes


def global_batch(order: BalancedOrder, cells_seen: int, world: int) -> tuple[IntArray, BatchPlan]:
    """Places of a global batch by position, joined from the shares of ``world`` workers."""
    plans = [order.batch(cells_seen, rank=rank, world=world) for rank in range(world)]
    positions = np.concatenate([plan.positions for plan in plans])
    assert {plan.global_cells for plan in plans} == {len(positions)}
    assert len({plan.cells_seen_after for plan in plans}) == 1
    np.testing.assert_array_equal(np.sort(positions), np.arange(len(positions)))
    return np.concatenate([plan.places for plan in plans])[np.argsort(positions)], plans[0]


def epoch(order: BalancedOrder, number: int = 0) -> IntArray:
    """All draws of an epoch, in order."""
    begin = number * order.n_cells
    batches, cells_seen = [], begin
    while cells_seen < begin + order.n_cells:
        places, plan = global_batch(order, cells_seen, 1)
        batches.append(places)
        cells_seen = plan.cells_seen_after
    assert len(batches) == order.steps_per_epoch
    return np.concatenate(batches)


@pytest.mark.parametrize(
    ("cells", "cap", "draws"),
    [
        ([80, 15, 5], 1, [80, 15, 5]),  # nothing balanced
        ([80, 15, 5], np.inf, [34, 33, 33]),  # all alike
        ([80, 15, 5], 4, [50, 38, 12]),  # weights 80, 60, 20 of 160: 50, 37.5, 12.5 (a tie: the first)
        ([60, 30, 10], 3, [40, 40, 20]),  # weights 60, 60, 30 of 150
        ([7], 10, [7]),
        ([1, 1, 1], 10, [1, 1, 1]),
    ],
)
def test_draws_are_inverse_to_frequency_up_to_the_cap(cells: list[int], cap: float, draws: list[int]) -> None:
    assert draws_of_classes(np.array(cells), cap).tolist() == draws


@pytest.mark.parametrize("cap", [1.0, 2.5, 10.0, 1000.0, np.inf])
def test_rare_classes_gain_and_no_cell_is_drawn_more_often_than_the_cap(cap: float) -> None:
    draws = draws_of_classes(LONG_TAIL, cap)
    assert draws.sum() == LONG_TAIL.sum()
    per_cell = draws / LONG_TAIL
    rounding = 1 / LONG_TAIL
    assert (np.diff(per_cell) > -rounding[1:]).all()  # classes become rarer, their cells more frequent
    assert (per_cell <= cap + rounding).all()
    # a cell outweighs one of the commonest class cap times, or by all that their frequencies differ
    expected = np.minimum(cap, LONG_TAIL[0] / LONG_TAIL)
    np.testing.assert_allclose(draws / draws[0], expected * LONG_TAIL / LONG_TAIL[0], atol=1 / draws[0])


def test_an_epoch_and_its_parts_have_the_shares_of_the_rule() -> None:
    order, classes = long_tail()
    drawn = classes[epoch(order)]
    for code, draws in zip(order.classes, order.draws, strict=True):
        assert (drawn == code).sum() == draws
        # draws without replacement from the epoch's draws: the hypergeometric distribution
        n, share = 2000, draws / len(drawn)
        sd = np.sqrt(n * share * (1 - share) * (1 - n / len(drawn)))
        assert abs((drawn[:n] == code).sum() - n * share) < 4 * sd + 1
    assert -1 in order.classes  # the unlabelled are a class like any other


def test_cells_of_a_class_are_drawn_equally_often() -> None:
    order, classes = long_tail()
    drawn = np.zeros(len(classes), dtype=np.int64)
    for number in range(4):
        drawn += np.bincount(epoch(order, number), minlength=len(classes))
        for code in order.classes:
            assert np.ptp(drawn[classes == code]) <= 1
    rare = drawn[classes == order.classes[np.argmin(order.cells)]]
    assert rare.min() > 4 * 2  # more than twice an epoch, where it would be once


def test_global_batches_do_not_depend_on_the_number_of_workers() -> None:
    order, _ = long_tail(batch_cells=64)
    last = (order.n_cells // 64) * 64
    for cells_seen in (0, 640, last, order.n_cells + 64):
        alone, plan = global_batch(order, cells_seen, 1)
        assert plan.cells_seen_after == order.after(cells_seen) == cells_seen + len(alone)
        for world in WORLDS[1:]:
            np.testing.assert_array_equal(global_batch(order, cells_seen, world)[0], alone)


def test_resuming_anywhere_with_another_number_of_workers_continues() -> None:
    order, classes = long_tail()
    cells_seen, expected = order.n_cells - 5 * 96 - order.n_cells % 96, []
    for _ in range(10):
        places, plan = global_batch(order, cells_seen, 2)
        expected.append((cells_seen, places))
        cells_seen = plan.cells_seen_after
    fresh = BalancedOrder(classes, 96, 3, cap=10.0)
    for start, places in reversed(expected):
        np.testing.assert_array_equal(global_batch(fresh, start, 7)[0], places)


def test_epochs_and_seeds_differ() -> None:
    order, _ = long_tail()
    first, second, other = epoch(order), epoch(order, 1), epoch(long_tail(seed=4)[0])
    for sequence in (second, other):
        # By chance alone: the sum over classes of share^2 / cells is 0.00025.
        assert (first == sequence).mean() < 0.002


def test_golden_table() -> None:
    """The order is part of what a run can be resumed from: it must not change between versions."""
    order = BalancedOrder(np.array([0, 0, 0, 0, 1, 0, -1, 0, 1, 0]), 4, 7, cap=3.0)
    assert order.classes.tolist() == [-1, 0, 1]
    assert order.draws.tolist() == [2, 4, 4]
    batches = [global_batch(order, begin, 1)[0].tolist() for begin in (0, 4, 8, 10)]
    assert batches == [[6, 4, 5, 9], [0, 6, 4, 8], [3, 8], [0, 2, 8, 8]]


@pytest.mark.parametrize("cap", [0.5, 0.0, -1.0, np.nan])
def test_caps_that_cannot_be_are_refused(cap: float) -> None:
    with pytest.raises(ValueError, match=r"cap must be at least 1, not .*no balancing"):
        Balance("cell_type", cap)


def test_a_stream_reads_balanced_batches(prepared: Prepared) -> None:
    stream = CellStream(prepared, batch_cells=64, seed=1, balance=Balance("cell_type", 5), epochs=2)
    rows = prepared.rows("train")
    types = prepared.labels(rows)[:, 0]
    twice = 0
    drawn = []
    for batch in stream:
        np.testing.assert_array_equal(batch.labels, prepared.labels(batch.rows))
        for i in (0, len(batch.rows) // 2, -1):
            one = prepared.read(batch.rows[i : i + 1 or None])[0]
            np.testing.assert_array_equal(batch.counts[0][[i]].toarray(), one.toarray())
        repeated, at, times = np.unique(batch.rows, return_index=True, return_counts=True)
        for row, first in zip(repeated[times > 1], at[times > 1], strict=True):
            same = batch.counts[0][np.flatnonzero(batch.rows == row)].toarray()
            np.testing.assert_array_equal(same, np.tile(batch.counts[0][[first]].toarray(), (len(same), 1)))
            twice += 1
        drawn.append(batch.labels[:, 0])
    assert twice > 0  # the case that stores cannot read by themselves did occur
    assert stream.state == 2 * len(rows)
    order = BalancedOrder(types, 64, 1, cap=5)
    codes, draws = np.unique(np.concatenate(drawn), return_counts=True)
    np.testing.assert_array_equal(codes, order.classes)
    np.testing.assert_array_equal(draws, 2 * order.draws)


def test_balanced_streams_that_cannot_be_are_refused_at_once(prepared: Prepared) -> None:
    with pytest.raises(SchemaError, match=r"no attribute 'tissue' .* cell_type, donor"):
        CellStream(prepared, batch_cells=64, balance=Balance("tissue"))
    with pytest.raises(ValueError, match="granularity 'blocks' cannot hold their reads together"):
        CellStream(prepared, batch_cells=64, balance=Balance("cell_type"), granularity="blocks")
