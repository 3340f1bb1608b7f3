import numpy as np
import pytest

from loaders.streaming.shuffled_blocks import Blocks, ShuffledBlocks


def all_places(blocks: Blocks, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """The whole sequence as one lane sees it."""
    slots = np.arange(blocks.n_cells)
    lane, lower, upper = (np.full_like(slots, value) for value in (0, 0, blocks.n_cells))
    return ShuffledBlocks(blocks, seed=seed, epoch=epoch).places(slots, lane, lower, upper)


def test_blocks_begin_where_their_number_changes() -> None:
    blocks = Blocks.of(np.array([3, 3, 3, 4, 9, 9]))
    assert blocks.begins.tolist() == [0, 3, 4, 6]
    assert Blocks.of(np.array([0])).begins.tolist() == [0, 1]
    assert Blocks.equal(10, 4).begins.tolist() == [0, 4, 8, 10]


def test_every_place_stands_at_one_slot() -> None:
    blocks = Blocks(np.array([0, 1, 7, 30, 31, 60, 64, 100]))
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(all_places(blocks, epoch=epoch)), np.arange(100))


def test_cells_of_a_block_come_together_and_shuffled() -> None:
    places = all_places(Blocks.equal(10_000, 50))
    for block in places.reshape(-1, 50):
        assert len(np.unique(block // 50)) == 1
        assert (np.diff(block) == 1).sum() < 10


def test_blocks_come_in_another_order_each_epoch() -> None:
    blocks = Blocks.equal(10_000, 50)
    first, second = (all_places(blocks, epoch=epoch)[::50] // 50 for epoch in (0, 1))
    assert abs(np.corrcoef(first, np.arange(200))[0, 1]) < 0.25
    assert (first == second).sum() < 10


@pytest.mark.parametrize("begins", [[0], [1, 5], [0, 5, 5], [0, 5, 4]])
def test_blocks_that_cannot_be_are_refused(begins: list[int]) -> None:
    with pytest.raises(ValueError, match="begin at place 0 and hold at least one cell"):
        Blocks(np.array(begins))
