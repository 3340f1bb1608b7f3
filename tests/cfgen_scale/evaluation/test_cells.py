"""Bad input is refused before work starts, naming what, where and the remedy."""

import warnings

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csc_matrix, csr_matrix

from cfgen_scale.evaluation.cells import EvaluationError, read_cells

GENES = ["g0", "g1", "g2"]


def adata(counts: object = None, genes: list[str] = GENES, **obs: list[object]) -> AnnData:
    made = AnnData(np.array([[1, 0, 2], [0, 3, 0]], dtype=np.float32) if counts is None else counts)
    made.var_names, made.obs_names = genes, ["first", "second"]
    for name, values in obs.items():
        made.obs[name] = values
    return made


def read(cells: AnnData, label: str | None = None) -> np.ndarray:
    return read_cells(cells, name="set 1", genes=GENES, label=label).counts.toarray()


def test_genes_are_brought_into_the_order_asked() -> None:
    shuffled = adata(np.array([[2, 1, 0], [0, 0, 3]]), genes=["g2", "g0", "g1"])
    assert read(shuffled).tolist() == read(adata()).tolist() == [[1, 0, 2], [0, 3, 0]]


def test_explicit_zeros_are_no_counts() -> None:
    stored = csr_matrix((np.array([1, 0]), np.array([0, 1]), np.array([0, 2, 2])), shape=(2, 3))
    assert read_cells(adata(stored), name="set 1", genes=GENES, label=None).counts.nnz == 1


@pytest.mark.parametrize("layout", [csr_matrix, csc_matrix])
@pytest.mark.parametrize(("of_indices", "of_indptr"), [(np.uint16, np.int64), (np.int32, np.int64)])
def test_indices_of_any_dtype_are_read_and_left_alone(
    layout: type, of_indices: type, of_indptr: type
) -> None:
    # What anndata makes of such a file: arrays put into a matrix, past scipy's own check of their types.
    stored = layout(np.array([[1, 0, 2], [0, 3, 0]], dtype=np.float64))
    stored.data[0] = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="indices array has non-integer dtype")
        stored.indices, stored.indptr = stored.indices.astype(of_indices), stored.indptr.astype(of_indptr)
        cells = adata(stored)
    before = [part.copy() for part in (stored.data, stored.indices, stored.indptr)]
    assert read(cells).tolist() == [[0, 0, 2], [0, 3, 0]]
    assert read_cells(cells, name="set 1", genes=GENES, label=None).counts.nnz == 2
    for now, then in zip((cells.X.data, cells.X.indices, cells.X.indptr), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_a_missing_label_means_not_told(missing: object) -> None:
    cells = read_cells(adata(kind=["T cells", missing]), name="set 1", genes=GENES, label="kind")
    assert cells.classes.tolist() == ["T cells", ""]
    assert cells.class_names() == ["T cells"]


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        (
            [[0.0, 0, 0], [0, 1.5, 0]],
            r"set 1 holds 1 values .* 1\.5 in cell 'second', gene 'g1'.* integers >= 0",
        ),
        ([[0.0, 0, -2], [0, 1, 0]], r"-2 in cell 'first', gene 'g2'"),
        ([[0.0, np.nan, np.inf], [0, 1, 0]], r"2 values .* nan in cell 'first', gene 'g1'"),
    ],
    ids=["fraction", "negative", "not finite"],
)
def test_what_is_no_count_is_named(counts: list[list[float]], says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        read(adata(np.array(counts)))


@pytest.mark.parametrize(
    ("genes", "says"),
    [
        (["g0", "other", "g2"], "'g1' is missing in set 1"),
        (["g0", "g1", "g1"], "'g1' stands more than once in set 1"),
    ],
)
def test_genes_that_differ_are_named(genes: list[str], says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        read(adata(genes=genes))


def test_a_gene_too_many_is_named() -> None:
    with pytest.raises(EvaluationError, match=r"set 1 \(3 genes\) .* \(2 genes\) .*'g2' is only in set 1"):
        read_cells(adata(), name="set 1", genes=["g0", "g1"], label=None)


def test_a_label_column_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(
        EvaluationError, match=r"set 1 has no column 'kind' in obs\. Its columns: 'type', 'donor'"
    ):
        read(adata(type=["T", "B"], donor=["x", "y"]), label="kind")


def test_no_cells_and_no_counts_are_refused() -> None:
    with pytest.raises(EvaluationError, match="set 1 has no cells"):
        read(AnnData(np.zeros((0, 3))))
    empty = adata()
    del empty.X
    with pytest.raises(EvaluationError, match="set 1 has no X"):
        read(empty)
