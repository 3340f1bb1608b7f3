"""Peers: the baseline's arithmetic, whose cells are whose, and a table that is taken up where it was."""

import argparse
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from tests.benchmarks import peer_models, peer_scores
from tests.benchmarks.peer_baseline import Bernoullis, NegativeBinomials, fit_independent
from tests.benchmarks.peer_cells import (
    ATAC,
    LABEL,
    RNA,
    PeerData,
    cells_file,
    cells_of_same_class,
    split_cells,
    told_classes,
)
from tests.benchmarks.peer_models import options, tables
from tests.benchmarks.peer_training import PEERS
from tests.benchmarks.peer_variational import codes_of, log_normal_depth

CLASSES = ("a", "b", "none")
GENES = 60


def simulated(seed: int, n: int = 400, features: int = GENES) -> AnnData:
    """Cells of two classes that differ, and a few of none."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(CLASSES, n, p=(0.6, 0.35, 0.05))
    mean = rng.gamma(1.0, 2.0, (2, features))[(classes == "b").astype(int)]
    counts = csr_matrix(rng.poisson(rng.gamma(2.0, mean / 2.0)).astype(np.int32))
    obs = pd.DataFrame({LABEL: pd.Categorical(classes)}, index=[f"cell-{i}" for i in range(n)])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"feature-{g}" for g in range(features)]))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[PeerData, Path]:
    """Two modalities of the same cells, with a class that is none."""
    folder = tmp_path_factory.mktemp("shared")
    for seed, name in enumerate((RNA, ATAC)):
        cells = simulated(seed)
        cells.obs[LABEL] = simulated(0).obs[LABEL]
        cells.write_h5ad(folder / f"{name}.h5ad")
    return PeerData("small", {RNA: "rna.h5ad", ATAC: "atac.h5ad"}, without=("none",)), folder


def asked(out: Path, *words: str) -> argparse.Namespace:
    return options().parse_args(["--peers", "independent", "--out", str(out), *words])


def test_moments_give_back_mean_and_dispersion() -> None:
    rng = np.random.default_rng(0)
    mean, theta = np.array([0.5, 3.0, 40.0]), np.array([0.4, 2.0, 5.0])
    true = NegativeBinomials(mean, theta)
    found = NegativeBinomials.fit(csr_matrix(true.draw(200_000, rng)))
    np.testing.assert_allclose(found.mean, mean, rtol=0.02)
    np.testing.assert_allclose(found.theta, theta, rtol=0.05)


def test_counts_that_vary_no_more_than_poisson_are_poisson() -> None:
    counts = np.array([[2, 0], [2, 0], [3, 0], [3, 0]])
    found = NegativeBinomials.fit(csr_matrix(counts))
    assert np.isinf(found.theta).all()
    drawn = found.draw(100_000, np.random.default_rng(0))
    assert drawn[:, 0].mean() == pytest.approx(drawn[:, 0].var(), rel=0.03)
    assert (drawn[:, 1] == 0).all()


def test_the_only_cell_of_a_class_gives_its_counts_as_means() -> None:
    found = NegativeBinomials.fit(csr_matrix(np.array([[4, 0, 7]])))
    np.testing.assert_array_equal(found.mean, [4, 0, 7])
    assert np.isinf(found.theta).all()


def test_peaks_open_as_often_as_in_their_class() -> None:
    found = Bernoullis.fit(csr_matrix(np.array([[1, 0, 5], [0, 0, 2], [1, 0, 1], [0, 0, 1]])))
    np.testing.assert_array_equal(found.open, [0.5, 0.0, 1.0])
    assert found.draw(20_000, np.random.default_rng(0)).mean(axis=0) == pytest.approx([0.5, 0, 1], abs=0.02)


def test_the_baseline_draws_each_cell_of_its_own_class() -> None:
    train = AnnData(
        csr_matrix(np.array([[9, 0], [9, 0], [0, 9], [0, 9]])),
        obs=pd.DataFrame({LABEL: ["a", "a", "b", "b"]}, index=list("1234")),
    )
    told = np.array(["b", "a", "b", "a", "a"])
    fitted = fit_independent({RNA: train}, 0)
    made = fitted.draw(told, 3)[RNA].toarray()
    assert ((made[:, 0] > 0) == (told == "a")).all()
    assert ((made[:, 1] > 0) == (told == "b")).all()
    np.testing.assert_array_equal(fitted.draw(told, 3)[RNA].toarray(), made)
    assert (fitted.draw(told, 4)[RNA].toarray() != made).any()


def test_classes_are_told_as_they_occur_and_depth_is_of_the_own_class() -> None:
    of_training = np.array(["b"] * 30 + ["a"] * 10)
    told = told_classes(of_training, np.random.default_rng(0))
    assert pd.Series(told).value_counts().to_dict() == {"b": 60, "a": 20}
    places = cells_of_same_class(of_training, told, np.random.default_rng(0))
    assert (of_training[places] == told).all()
    assert len(np.unique(places)) > 20


def test_library_sizes_are_log_normal_in_each_class() -> None:
    of_training = np.repeat(["a", "b", "c"], [2, 2, 1])
    told = np.repeat(["a", "b", "c"], 50_000)
    depth = log_normal_depth(np.array([1.0, 3.0, 7.0, 7.2, 5.0]), of_training, told, np.random.default_rng(0))
    by_class = depth.reshape(3, -1)
    assert by_class.mean(axis=1) == pytest.approx([2.0, 7.1, 5.0], abs=0.02)
    assert by_class.std(axis=1) == pytest.approx([1.0, 0.1, 0.0], abs=0.01)


def test_classes_are_told_by_the_codes_that_the_model_has_for_them() -> None:
    names = np.array(["CD8 T cells", "CD14+ Monocytes", "B cells"])
    assert codes_of(names, np.array(["B cells", "CD8 T cells", "B cells"])).tolist() == [2, 0, 2]
    with pytest.raises(KeyError, match="NK"):
        codes_of(names, np.array(["NK cells"]))


def test_peers_model_what_a_data_set_has() -> None:
    found = {name: (peer.models([RNA]), peer.models([RNA, ATAC])) for name, peer in PEERS.items()}
    assert found == {
        "independent": ((RNA,), (RNA, ATAC)),
        "scvi": ((RNA,), (RNA,)),
        "peakvi": ((), (ATAC,)),
        "multivi": ((), (RNA, ATAC)),
    }


def test_cells_are_split_once_alike_in_every_modality(both: tuple[PeerData, Path], tmp_path: Path) -> None:
    data, folder = both
    cells = split_cells(data, folder, tmp_path / "out")
    read = {
        (split, name): anndata.read_h5ad(cells_file(cells, split, name))
        for split in ("train", "test")
        for name in (RNA, ATAC)
    }
    source = anndata.read_h5ad(folder / "rna.h5ad")
    kept = list(source.obs_names[source.obs[LABEL] != "none"])
    names = {split: list(read[split, RNA].obs_names) for split in ("train", "test")}
    assert len(names["train"]) + len(names["test"]) == len(kept)
    for split in ("train", "test"):
        assert names[split] == [name for name in kept if name in set(names[split])]
    assert 0.1 < len(names["test"]) / len(kept) < 0.3
    for split in ("train", "test"):
        assert list(read[split, ATAC].obs_names) == names[split]
        np.testing.assert_array_equal(read[split, RNA].X.toarray(), source[names[split]].X.toarray())
    assert read["train", ATAC].X.max() == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5ad is missing"):
        split_cells(PeerData("small", {RNA: "nothing.h5ad"}), tmp_path, tmp_path / "out")


def test_tables_of_both_modalities_are_taken_up_where_they_were(
    both: tuple[PeerData, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    data, folder = both
    out = tmp_path / "out"
    first = tables(data, folder, asked(out, "--seeds", "0"))
    rows = [line for line in first.splitlines() if line.startswith("| independent")]
    assert len(rows) == 2
    assert all("×" in row for row in rows)
    assert sum(line.startswith("| real training cells") for line in first.splitlines()) == 2
    monkeypatch.setattr(peer_models.subprocess, "run", _must_not_run)
    made = out / "small" / "independent-{seed}" / "{modality}.h5ad"
    again = tables(data, folder, asked(out, "--seeds", "0", "--ours", f"mine={made}", "gone={dataset}.zarr"))
    kept = [line for line in again.splitlines() if line.startswith("| independent")]
    assert kept == rows
    mine = [line for line in again.splitlines() if line.startswith("| mine")]
    assert [_scores(line) for line in mine] == [_scores(line) for line in rows]
    assert "small.zarr is not there" in capsys.readouterr().err


def _must_not_run(*arguments: object, **named: object) -> None:
    raise AssertionError("what is there was made again")


def _scores(row: str) -> list[str]:
    """Cells of a row without its title and speeds."""
    return row.split("|")[2:-3]


def test_scores_are_made_anew_where_a_set_was_written_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [cells_file(tmp_path, split, RNA) for split in ("train", "test")] + [tmp_path / "made.h5ad"]
    for file in files:
        simulated(0).write_h5ad(file)
    calls = []
    monkeypatch.setattr(peer_scores, "evaluate", lambda *cells, **named: calls.append(named["seeds"]) or {})
    for _ in range(2):
        peer_scores.scores(tmp_path, RNA, files[2:], (0,), tmp_path / "scores.json")
    assert calls == [(0,)]
    os.utime(files[2], ns=(1, 1))
    for seeds in ((0,), (0, 1), (0, 1)):
        peer_scores.scores(tmp_path, RNA, files[2:], seeds, tmp_path / "scores.json")
    assert calls == [(0,), (0,), (0, 1)]


def test_without_scvi_tools_it_is_said_before_work() -> None:
    with pytest.raises(SystemExit, match="no-python has no scvi-tools"):
        peer_models.require_scvi(options().parse_args(["--peer-python", "no-python"]))


def test_ours_is_a_name_and_a_path(capsys) -> None:
    with pytest.raises(SystemExit):
        options().parse_args(["--ours", "path-alone"])
    assert "it is NAME=PATH" in capsys.readouterr().err
