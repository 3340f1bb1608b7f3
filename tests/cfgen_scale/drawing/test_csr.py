"""What is drawn is canonical CSR, the same however the cells are split; what cannot be drawn is refused."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from cfgen_scale.drawing import Distribution, draw_counts, on_processor

CELLS, GENES = 60, 501


@pytest.fixture(scope="module")
def means():
    """From 1e-6 to 1e4, and exact zeros."""
    drawn = np.exp(np.random.default_rng(0).uniform(-14, 9, (CELLS, GENES))).astype(np.float32)
    drawn[:, ::50] = 0
    return drawn


@pytest.fixture(scope="module")
def distribution():
    random = np.random.default_rng(1)
    return Distribution(
        "negative_binomial", np.exp(random.uniform(-5, 9, (3, GENES))), random.integers(0, 3, CELLS)
    )


@pytest.fixture(scope="module")
def whole(means, keys_of, distribution):
    return draw_counts(means, keys_of(CELLS), distribution)


def same(a, b):
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("indptr", "indices", "data"))


def test_csr_is_canonical(whole, means):
    assert whole.shape == (CELLS, GENES)
    assert whole.data.dtype == whole.indices.dtype == np.int32
    assert whole.data.min() >= 1
    copy = csr_matrix((whole.data, whole.indices, whole.indptr), shape=whole.shape)
    assert copy.has_canonical_format
    assert whole.toarray()[means == 0].max() == 0


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 50, 3]])
def test_counts_do_not_depend_on_how_cells_are_split(sizes, whole, means, keys_of, distribution):
    ends = np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    with ThreadPoolExecutor(4) as threads:
        drawn = threads.map(
            lambda rows: draw_counts(means[rows], keys_of(CELLS)[rows], distribution.rows(rows)), parts
        )
        assert same(vstack(list(drawn), format="csr"), whole)


def test_counts_do_not_depend_on_the_order_of_cells(whole, means, keys_of, distribution):
    order = np.random.default_rng(2).permutation(CELLS)
    moved = Distribution("negative_binomial", distribution.theta, distribution.levels[order])
    assert same(draw_counts(means[order], keys_of(CELLS)[order], moved), whole[order])


def test_counts_do_not_depend_on_the_other_genes(whole, means, keys_of, distribution):
    fewer = Distribution("negative_binomial", distribution.theta[:, :100], distribution.levels)
    assert same(draw_counts(means[:, :100], keys_of(CELLS), fewer), whole[:, :100])


def test_little_room_at_a_time(monkeypatch, whole, means, keys_of, distribution):
    monkeypatch.setattr(on_processor, "ROOM", 4 * GENES)
    assert same(draw_counts(means, keys_of(CELLS), distribution), whole)


def test_theta_is_that_of_the_cells_level(keys_of):
    levels = np.repeat([0, 1], 500)
    table = Distribution("negative_binomial", np.array([[0.5] * 400, [50.0] * 400]), levels)
    counts = draw_counts(np.full((1000, 400), 3.0, np.float32), keys_of(1000), table).toarray()
    assert counts[:500].var() == pytest.approx(3 + 9 / 0.5, rel=0.03)
    assert counts[500:].var() == pytest.approx(3 + 9 / 50, rel=0.03)


@pytest.mark.parametrize(("kind", "wrong"), [("poisson", np.nan), ("poisson", -1e-3), ("bernoulli", 1.5)])
@pytest.mark.parametrize("room", [2**22, 4 * GENES])
def test_means_that_cannot_be_are_refused(monkeypatch, room, kind, wrong, keys_of):
    monkeypatch.setattr(on_processor, "ROOM", room)
    means = np.full((CELLS, GENES), 0.1, np.float32)
    means[17, 499] = wrong
    with pytest.raises(ValueError, match="means of cell 17 of the batch"):
        draw_counts(means, keys_of(CELLS), Distribution(kind))


@pytest.mark.parametrize("mean", [np.inf, 2.0**31])
def test_means_above_what_counts_hold_are_refused(mean, keys_of):
    with pytest.raises(ValueError, match=r"0 to 2\^30"):
        draw_counts(np.array([[mean]], np.float32), keys_of(1), Distribution("poisson"))


def test_wrong_thetas_are_refused(means, keys_of):
    for theta, said in ((None, "it is none"), (np.ones((1, 7)), r"\(1, 7\)")):
        with pytest.raises(ValueError, match=said):
            draw_counts(means, keys_of(CELLS), Distribution("negative_binomial", theta))
    theta = np.ones((2, GENES))
    theta[1, 3] = 0.0
    with pytest.raises(ValueError, match=r"feature 3 \(level 1\) is 0.0"):
        draw_counts(means, keys_of(CELLS), Distribution("negative_binomial", theta))
    with pytest.raises(ValueError, match="from 0 to 0"):
        draw_counts(
            means, keys_of(CELLS), Distribution("negative_binomial", theta[:1], np.ones(CELLS, np.int64))
        )


def test_counts_stay_within_their_32_bits(draw):
    counts = draw(2.0**29, 1e-3, cells=200)
    assert counts.data.min() >= 1
    assert counts.data.max() == 2**31 - 1
    sure = draw(2.0**30, kind="poisson", cells=10)
    assert abs(sure.data - 2.0**30).max() < 7 * 2.0**15


def test_no_cells_and_no_genes(keys_of):
    for shape in ((0, 5), (5, 0)):
        counts = draw_counts(np.ones(shape, np.float32), keys_of(shape[0]), Distribution("poisson"))
        assert counts.shape == shape
        assert counts.nnz == 0
