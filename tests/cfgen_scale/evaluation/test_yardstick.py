"""Every shared figure agrees with the yardstick that the project's targets were taken with (METHOD 7)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation import EvaluationSettings, evaluate

SEED, REPEATS = 1, 2
PROTOCOLS = {"neutral": "neutral", "centred": "centred", "legacy": "paper_uncentred"}
DISTANCES = {"w2": "wd", "mmd2": "mmd", "mmd2_unbiased": "mmd_unbiased"}
MOMENTS = {
    "gene_mean_correlation": "gene_mean_pearson_lognorm",
    "gene_mean_rank_correlation": "gene_mean_spearman_lognorm",
    "gene_mean_log_count_correlation": "gene_mean_pearson_log10count",
    "gene_variance_correlation": "gene_var_pearson_lognorm",
    "mean_variance_gap": "meanvar_trend_gap_counts",
    "mean_variance_gap_log_normalised": "meanvar_trend_gap_lognorm",
    "log_variance_error": "log10var_rmse_counts",
    "gene_zero_share_error": "gene_zero_frac_mae",
    "cell_zero_share_ks": "cell_zero_frac_ks",
    "cell_zero_share_w1": "cell_zero_frac_w1",
    "library_size_ks": "library_size_ks",
}
Trees = tuple[dict[str, Any], dict[str, Any]]


def thinned(adata: AnnData, rows: np.ndarray, random: np.random.Generator | None = None) -> AnnData:
    """Some cells with counts kept, or drawn anew as Poisson around 0.9 of them."""
    counts = csr_matrix(adata.X)[rows].astype(np.int32)
    if random is not None:
        counts.data = random.poisson(0.9 * counts.data).astype(np.int32)
        counts.eliminate_zeros()
    obs = adata.obs.iloc[rows][["cell_type"]].astype(str)
    obs.index = [f"cell{i}" for i in range(len(rows))]
    return AnnData(counts, obs=obs, var=adata.var[[]])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Ours and the yardstick's figures of thinned real cells as the generated set."""
    data = os.environ.get("CFGEN_SCALE_DATA")
    if not data:
        pytest.skip("CFGEN_SCALE_DATA does not name the folder of shared data")
    yardstick = Path(data).parent / "evaluate_h5ad.py"
    if not yardstick.exists():
        pytest.skip(f"no yardstick at {yardstick}")
    random = np.random.default_rng(0)
    train, test = (anndata.read_h5ad(Path(data) / f"pbmc3k_{part}.h5ad") for part in ("train", "test"))
    sets = {
        "train": thinned(train, random.permutation(train.n_obs)[:700]),
        "test": thinned(test, random.permutation(test.n_obs)[:250]),
        "generated": thinned(train, random.integers(0, train.n_obs, 400), random),
    }
    folder = tmp_path_factory.mktemp("yardstick")
    command = [sys.executable, str(yardstick), "--out", str(folder / "out.json"), "--per-label"]
    command += ["--seed", str(SEED), "--repeats", str(REPEATS)]
    for name, cells in sets.items():
        cells.write_h5ad(folder / f"{name}.h5ad")
        command += [f"--{name}", str(folder / f"{name}.h5ad")]
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
    ours = evaluate(
        sets["train"],
        sets["test"],
        [sets["generated"]],
        label="cell_type",
        seeds=(SEED,),
        settings=EvaluationSettings(repeats=REPEATS),
    )
    return ours, json.loads((folder / "out.json").read_text())


def agrees(value: float) -> Any:
    """Within 1 %; the yardstick rounds figures of single classes to 5 decimals."""
    return pytest.approx(value, rel=0.01, abs=1e-5)


@pytest.mark.parametrize("side", ["generated", "floor"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_distances(both: Trees, side: str, protocol: str) -> None:
    ours, theirs = both[0]["protocols"][protocol], both[1][side][PROTOCOLS[protocol]]
    key = "value" if side == "generated" else "floor"
    for mine, name in DISTANCES.items():
        assert ours["conditional"][mine][key] == agrees(theirs["conditional"][name])
        weighted = theirs["conditional"][f"{name}_cell_weighted"]
        assert ours["conditional_cell_weighted"][mine][key] == agrees(weighted)
        assert ours["unconditional"][mine][key] == agrees(theirs["unconditional"][name])
        for label, of_class in theirs["per_label"].items():
            assert ours["per_class"][label][mine][key] == agrees(of_class[name])


@pytest.mark.parametrize("side", ["generated", "floor"])
def test_moments(both: Trees, side: str) -> None:
    ours, theirs = both[0]["moments"], both[1][side]["genes"]
    key = "value" if side == "generated" else "floor"
    for mine, name in MOMENTS.items():
        assert ours[mine][key] == agrees(theirs[name]), mine
    for mine, name in (("cell_zero_share_mean", "cell_zero_frac_mean"), ("library_size_median",) * 2):
        assert ours[mine][key] == agrees(theirs[name][0]), mine
        assert both[0]["test_cells"][mine] == agrees(theirs[name][1]), mine


@pytest.mark.parametrize("side", ["generated", "floor"])
def test_classifiers(both: Trees, side: str) -> None:
    ours, theirs = both[0]["two_sample_auc"], both[1][side]["two_sample_auc"]
    key = "value" if side == "generated" else "floor"
    assert ours["logistic"][key] == agrees(theirs["pca_logistic"])
    assert ours["nearest_neighbours"][key] == agrees(theirs["pca_knn15"])
