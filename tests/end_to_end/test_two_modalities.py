"""RNA and peaks of the same cells: prepared, trained, encoded and generated as two matrices of counts."""

import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from cfgen_scale.model import CFGen
from cfgen_scale.types import GeneratedCells
from jobs.cli import main
from jobs.config import ConfigError
from jobs.serving import ServedModel
from loaders.preparation.prepared import Prepared
from tests.loaders.mudata_files import write_mudata
from tests.small_atlas import SMALL_RUN, small_atlas, train_small

DATA = Path(os.environ.get("CFGEN_SCALE_DATA") or "/nonexistent")
LONGER = ("autoencoder.cells=12000", "flow.cells=12000")


@pytest.fixture(scope="module")
def pair() -> dict[str, AnnData]:
    """RNA of 300 cells and 50 peaks, of which each type has some open."""
    rna, random = small_atlas(), np.random.default_rng(3)
    types = np.asarray(rna.obs["cell_type"].cat.codes)
    share = random.beta(0.4, 1.5, (types.max() + 1, 50))
    counts = random.binomial(3, share[types]) + (np.arange(50) == 0)
    atac = AnnData(X=csr_matrix(counts.astype(np.int32)), obs=pd.DataFrame(index=rna.obs_names))
    atac.var_names = [f"peak{i}" for i in range(50)]
    return {"rna": rna, "atac": atac[random.permutation(300)].copy()}


@pytest.fixture(scope="module")
def prepared(pair: dict[str, AnnData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    source = write_mudata(pair, folder / "cells.h5mu")
    line = ["prepare", str(source), "--out", str(folder / "prepared"), "--min-cells-per-gene", "0"]
    line += ["--label", "cell_type", "--label", "donor", "--split-column", "split"]
    assert main([*line, "--modality", "atac", "--likelihood", "atac=bernoulli"]) == 0
    return folder / "prepared"


@pytest.fixture
def runs(migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return tmp_path


LOG_NORMAL_SIZES = [
    "model.size_factors=log_normal",
    "model.size_factors_by=[cell_type, donor]",
    "model.velocity.size_factor_told=true",
]


@pytest.mark.parametrize(
    ("latents", "sizes"), [("joint", LOG_NORMAL_SIZES), ("joint", []), ("concatenated", [])]
)
def test_a_small_pair_from_a_mudata_to_generated_cells(
    latents: str, sizes: list[str], prepared: Path, pair: dict[str, AnnData], runs: Path
) -> None:
    overrides = [
        *LONGER,
        f"model.autoencoder.latents={latents}",
        "model.autoencoder.modalities.atac.hidden=[24]",
        "model.autoencoder.theta_by=cell_type",
        "model.velocity.attributes_told=subset",
        *sizes,
    ]
    run = train_small("all", data=prepared, run=runs / "run", overrides=overrides)
    model, atlas = CFGen.load(run / "model"), Prepared.open(prepared)
    assert model.encode(atlas.read(atlas.rows("test"))).shape == (18, 4)
    cells = drawn(model, 400, {"cell_type": "B"})
    assert (cells.counts[0].shape, cells.counts[1].shape) == ((400, 60), (400, 50))
    assert cells.log_size_factor.shape == (400, 1)
    require_close_means(cells, atlas, pair["rna"].obs["cell_type"].to_numpy() == "B", pair)
    served = ServedModel(model).predict(pd.DataFrame({"cell_type": ["B", "T"]}))
    assert served.shape == (2, 110)
    assert served.columns[[0, -1]].tolist() == ["rna:gene0", "atac:peak49"]


def drawn(model: CFGen, n: int, told: dict[str, str]) -> GeneratedCells:
    labels = model.draw_labels(n, told, seed=0)
    return model.generate_cells(labels, guidance=model.weights_of(None), seed=0)


def require_close_means(
    cells: GeneratedCells, atlas: Prepared, of_class: np.ndarray, pair: dict[str, AnnData]
) -> None:
    """Mean expression and open peaks follow those of the class, and are no others'."""
    names = pair["rna"].obs_names
    for made, modality in zip(cells.counts, atlas.schema.modalities, strict=True):
        real = pair[modality.name][names, list(modality.features)].X.toarray()
        real = real if modality.counted else real > 0
        mean = np.asarray(made.mean(axis=0)).ravel()
        own, others = (np.corrcoef(mean, real[of].mean(axis=0))[0, 1] for of in (of_class, ~of_class))
        assert own > max(0.8, others), (modality.name, own, others)


def test_settings_that_do_not_fit_the_modalities_are_refused(prepared: Path, runs: Path) -> None:
    for override, message in (
        ("model.autoencoder.modalities.protein.hidden=[8]", r"no modality 'protein'.*rna, atac"),
        ("model.autoencoder.modalities.atac.latent=2", "latents are joint"),
        ("model.size_factors_by=[cell_type, tissue]", r"size_factors_by='tissue' is no label"),
    ):
        overrides = ["model.size_factors=log_normal", override]
        with pytest.raises(ConfigError, match=message):
            train_small("all", data=prepared, run=runs / "run", overrides=overrides)
    assert not (runs / "run").exists()


@pytest.mark.skipif(
    not (DATA / "snareseq_mouse_cortex_rna_10309x1677.h5ad").exists(),
    reason="set CFGEN_SCALE_DATA to the folder with the SNARE-seq pair",
)
@pytest.mark.parametrize("kind", ["bernoulli", "poisson"])
def test_a_slice_of_snare_seq(kind: str, runs: Path) -> None:
    """1,500 cells of the four largest types: each generated type is most like itself in both modalities."""
    sources = {
        "rna": DATA / "snareseq_mouse_cortex_rna_10309x1677.h5ad",
        "atac": DATA / "snareseq_mouse_cortex_atac_10309x25734.h5ad",
    }
    pair = {name: anndata.read_h5ad(path) for name, path in sources.items()}
    types = pair["rna"].obs["cell_type"].astype(str)
    largest = types.value_counts().index[:4]
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(types.isin(largest)))[:1500]
    for name, part in pair.items():
        pair[name] = part[np.sort(chosen)].copy()
        pair[name].write_h5ad(runs / f"{name}.h5ad")
    line = ["prepare", str(runs / "rna.h5ad"), "--modality", f"atac={runs / 'atac.h5ad'}"]
    line += ["--likelihood", f"atac={kind}", "--label", "cell_type", "--out", str(runs / "prepared")]
    assert main(line) == 0
    settings = ["model.autoencoder.latent=16", "model.autoencoder.hidden=[64]", "model.velocity.width=32"]
    longer = ["autoencoder.cells=20000", "flow.cells=20000", "autoencoder.batch_cells=64"]
    options = [setting for setting in SMALL_RUN if "latent" not in setting and "hidden" not in setting]
    line = ["train", "all", "--data", str(runs / "prepared"), "--run", str(runs / "run"), "--workers", "0"]
    assert main([*line, *options, *settings, *longer]) == 0
    model, atlas = CFGen.load(runs / "run" / "model"), Prepared.open(runs / "prepared")
    assert model.encode(atlas.read(atlas.rows("test")[:50])).shape == (50, 16)
    cells = drawn(model, 1000, {"cell_type": str(largest[0])})
    real = atlas.read(atlas.rows("train"))
    for made, counts in zip(cells.counts, real, strict=True):
        totals = [np.asarray(matrix.sum(axis=1)).mean() for matrix in (made, counts)]
        assert totals[0] == pytest.approx(totals[1], rel=0.3)
    of_class = pair["rna"].obs["cell_type"].astype(str).to_numpy() == largest[0]
    require_close_means(cells, atlas, of_class, pair)
