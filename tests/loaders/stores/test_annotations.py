"""A table of annotations for cells whose store has none: who is matched, who is not, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from loaders.preparation.prepare import prepare
from loaders.preparation.prepared import Prepared
from tests.loaders.conftest import make_atlas, write_obs_table
from tests.loaders.tenx_files import write_tenx_h5


@pytest.fixture
def small() -> AnnData:
    return make_atlas(n_cells=80)


def prepared_with(table: Path | None, sources: Any, out: Path, **options: Any) -> Prepared:
    settings = {"labels": ["cell_type"], "min_cells_per_gene": 0, "progress": False, **options}
    return prepare(sources, out, obs=table, **settings)


def test_labels_and_splits_come_from_the_table(small: AnnData, tmp_path: Path) -> None:
    source = write_tenx_h5(small, tmp_path / "cells.h5")
    options = {"labels": ["cell_type", "donor"], "split_by": "donor"}
    whole = prepared_with(None, small, tmp_path / "whole", **options)
    shuffled = small[np.random.default_rng(0).permutation(80)]
    for name, write in (
        ("obs.csv", lambda path: shuffled.obs.to_csv(path)),
        ("obs.tsv.gz", lambda path: shuffled.obs.to_csv(path, sep="\t")),
        ("obs.parquet", lambda path: shuffled.obs.to_parquet(path)),
    ):
        write(tmp_path / name)
        made = prepared_with(tmp_path / name, source, tmp_path / f"{name}.out", **options)
        assert made.digest == whole.digest
        assert made.summary["notes"] == "80 of 80 cells are in the table of annotations"


def test_a_cell_that_the_table_lacks_is_unlabelled(small: AnnData, tmp_path: Path) -> None:
    table = write_obs_table(small[5:].copy(), tmp_path / "obs.csv")
    with table.open("a") as file:
        file.write("a cell of another atlas,d,B cells\n")
    made = prepared_with(table, write_tenx_h5(small, tmp_path / "cells.h5"), tmp_path / "out")
    labels = made.labels(np.arange(80))[:, 0]
    assert (labels[:5] == -1).all()
    expected = made.schema.covariate("cell_type").codes(small.obs["cell_type"].astype(object)[5:])
    np.testing.assert_array_equal(labels[5:], expected)
    assert made.summary["notes"] == "75 of 80 cells are in the table of annotations"


def test_a_table_adds_to_the_obs_of_any_store(small: AnnData, tmp_path: Path) -> None:
    tissue = pd.DataFrame({"tissue": ["lung", "gut"] * 40}, index=small.obs_names)
    tissue.to_csv(tmp_path / "tissue.csv")
    made = prepared_with(tmp_path / "tissue.csv", small, tmp_path / "out", labels=["donor", "tissue"])
    assert made.schema.covariate("tissue").categories == ("gut", "lung")
    assert (made.labels(np.arange(80))[:, 1] == np.tile([1, 0], 40)).all()
    tissue["donor"] = "somebody"
    tissue.to_csv(tmp_path / "both.csv")
    with pytest.raises(ValueError, match=r"'donor' is a column both of .*both.csv and of the obs of memory"):
        prepared_with(tmp_path / "both.csv", small, tmp_path / "other", labels=["donor", "tissue"])


def test_barcodes_of_several_samples_need_a_column_that_tells_them_apart(tmp_path: Path) -> None:
    samples = [make_atlas(n_cells=40, seed=0) for _ in range(2)]
    samples[1].obs["cell_type"] = samples[0].obs["cell_type"].to_numpy()[::-1]
    paths = []
    for i, sample in enumerate(samples):
        (tmp_path / f"sample_{i}" / "outs").mkdir(parents=True)
        paths.append(write_tenx_h5(sample, tmp_path / f"sample_{i}" / "outs" / "matrix.h5"))
    one = write_obs_table(samples[0], tmp_path / "one.csv")
    with pytest.raises(ValueError, match=r"40 rows are about several cells, first 'cell_0_0'.*'source'"):
        prepared_with(one, paths, tmp_path / "out")
    frames = [s.obs.assign(source=f"sample_{i}") for i, s in enumerate(samples)]
    both = pd.concat(frames)
    both.drop(columns="source").to_csv(tmp_path / "unsaid.csv")
    with pytest.raises(ValueError, match=r"has 40 names of cells more than once, first 'cell_0_0'"):
        prepared_with(tmp_path / "unsaid.csv", paths, tmp_path / "out")
    # Rows about a sample that is not given are not used.
    pd.concat([both, frames[0].assign(source="sample_2")]).to_csv(tmp_path / "both.csv")
    made = prepared_with(tmp_path / "both.csv", paths, tmp_path / "out")
    given = np.concatenate([s.obs["cell_type"].to_numpy(dtype=object) for s in samples])
    expected = made.schema.covariate("cell_type").codes(given)
    np.testing.assert_array_equal(made.labels(np.arange(80))[:, 0], expected)
    both["source"] = "outs"
    both.to_csv(tmp_path / "vague.csv")
    with pytest.raises(ValueError, match=r"'outs' \(column 'source'\) is a part of the paths of 2 sources"):
        prepared_with(tmp_path / "vague.csv", paths, tmp_path / "other")


def test_names_that_match_nothing_are_told_with_an_example_of_each(small: AnnData, tmp_path: Path) -> None:
    source = write_tenx_h5(small, tmp_path / "cells.h5")
    renamed = small.obs.set_axis([f"{name}-1" for name in small.obs_names])
    renamed.to_csv(tmp_path / "obs.csv")
    with pytest.raises(ValueError, match=r"no cell of .*cells.h5 is in .*'cell_0_0', the .*'cell_0_0-1'"):
        prepared_with(tmp_path / "obs.csv", source, tmp_path / "out")


def test_a_source_with_its_own_columns_needs_no_row(small: AnnData, tmp_path: Path) -> None:
    test = make_atlas(n_cells=30, seed=4)
    table = write_obs_table(small, tmp_path / "obs.csv")
    source = write_tenx_h5(small, tmp_path / "cells.h5")
    made = prepared_with(table, source, tmp_path / "out", test=test)
    types = made.schema.covariate("cell_type").codes(test.obs["cell_type"].astype(object))
    np.testing.assert_array_equal(made.labels(made.rows("test"))[:, 0], types)


def test_what_is_no_table_is_refused(small: AnnData, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no table of annotations at"):
        prepared_with(tmp_path / "absent.csv", small, tmp_path / "out")
    (tmp_path / "obs.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"obs.xlsx cannot be read .*ends with none of \.csv"):
        prepared_with(tmp_path / "obs.xlsx", small, tmp_path / "out")
    (tmp_path / "obs.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"obs.parquet cannot be read as a table"):
        prepared_with(tmp_path / "obs.parquet", small, tmp_path / "out")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"empty.csv cannot be read as a table"):
        prepared_with(tmp_path / "empty.csv", small, tmp_path / "out")
    (tmp_path / "other.csv").write_text("barcode,tissue\nc,lung\n")
    with pytest.raises(ValueError, match=r"none of the columns asked for \(cell_type\). Its columns.*tissue"):
        prepared_with(tmp_path / "other.csv", small, tmp_path / "out")


def test_another_table_for_the_same_place_is_refused(small: AnnData, tmp_path: Path) -> None:
    source = write_tenx_h5(small, tmp_path / "cells.h5")
    table = write_obs_table(small, tmp_path / "obs.csv")
    first = prepared_with(table, source, tmp_path / "out")
    assert prepared_with(table, source, tmp_path / "out").digest == first.digest
    write_obs_table(small[:70].copy(), table)
    with pytest.raises(FileExistsError, match=r"was prepared with obs = obs.csv \(sha256 .*, and now obs = "):
        prepared_with(table, source, tmp_path / "out")
