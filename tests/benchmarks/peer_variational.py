"""scVI, MultiVI and PeakVI of scvi-tools, trained with the class as batch, and what they generate.

All three have a standard normal prior on z and a decoder that is told the class. Cells are drawn from the
prior predictive, as in the paper's comparison: z ~ N(0, I), decoded under the class, counts drawn from the
likelihood. Nothing of a real cell but its depth goes in; the posterior predictive would hand the peers an
encoding of each training cell and measure reconstruction. Depth is that of training cells:

scVI             library size from the LogNormal fitted to the training cells of the class, scVI's own prior
PeakVI, MultiVI  have no prior on depth: the factors inferred for a training cell of the class, drawn at
                 random; of MultiVI both factors of one cell together

Architectures, rates and batches are the package's defaults, as are epochs: scVI 400 at most up to 20,000
cells, MultiVI and PeakVI 500. All stop early on the ELBO of a tenth of the training cells, that the package
holds out: by default in PeakVI and MultiVI, as its documentation advises in scVI.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from cfgen_scale.randomness import hashed
from tests.benchmarks.peer_cells import ATAC, LABEL, RNA, Labels, cells_of_same_class
from tests.benchmarks.peer_fit import Fitted

BATCH_CELLS = 512
Counts = dict[str, torch.Tensor]
# from z (B, D), classes (B, 1) and depth (B, k): counts (B, features) by modality
Decode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Counts]


def fit_scvi(train: Mapping[str, AnnData], seed: int) -> Fitted:
    """scVI on RNA: zero-inflated negative binomial counts."""
    import scvi

    scvi.settings.seed = seed
    cells = train[RNA].copy()
    scvi.model.SCVI.setup_anndata(cells, batch_key=LABEL)
    model = scvi.model.SCVI(cells)
    _train(model, early_stopping=True)

    def decode(z: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor) -> Counts:
        return {RNA: model.module.generative(z, depth, classes)["px"].sample()}

    totals = np.log(np.asarray(cells.X.sum(axis=1), dtype=np.float64))
    return _fitted(
        model, cells, decode, lambda told, rng: log_normal_depth(totals, _classes(cells), told, rng)
    )


def fit_peakvi(train: Mapping[str, AnnData], seed: int) -> Fitted:
    """PeakVI on ATAC: open or not."""
    import scvi

    scvi.settings.seed = seed
    cells = train[ATAC].copy()
    scvi.model.PEAKVI.setup_anndata(cells, batch_key=LABEL)
    model = scvi.model.PEAKVI(cells)
    _train(model)
    depths = _inferred(model, ("d",))

    def decode(z: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor) -> Counts:
        px = model.module.generative(z, z, classes)["px"]
        return {ATAC: torch.bernoulli(px * depth * torch.sigmoid(model.module.region_factors))}

    return _fitted(model, cells, decode, lambda told, rng: _resampled(depths, cells, told, rng))


def fit_multivi(train: Mapping[str, AnnData], seed: int) -> Fitted:
    """MultiVI on RNA and ATAC of the same cells: zero-inflated negative binomial, and open or not."""
    import mudata
    import scvi

    scvi.settings.seed = seed
    cells = mudata.MuData({RNA: train[RNA].copy(), ATAC: train[ATAC].copy()})
    cells.obs[LABEL] = train[RNA].obs[LABEL]
    places = {"rna_layer": RNA, "atac_layer": ATAC}
    scvi.model.MULTIVI.setup_mudata(cells, batch_key=LABEL, modalities=places)
    model = scvi.model.MULTIVI(cells)
    _train(model)
    depths = _inferred(model, ("libsize_expr", "libsize_acc"))

    def decode(z: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor) -> Counts:
        made = model.module.generative(z, z, classes, libsize_expr=depth[:, :1])
        genes = scvi.distributions.ZeroInflatedNegativeBinomial(
            mu=made["px_rate"], theta=made["px_r"], zi_logits=made["px_dropout"]
        )
        peaks = made["p"] * depth[:, 1:] * torch.sigmoid(model.module.region_factors)
        return {RNA: genes.sample(), ATAC: torch.bernoulli(peaks)}

    return _fitted(model, cells, decode, lambda told, rng: _resampled(depths, cells, told, rng))


def log_normal_depth(
    log_totals: np.ndarray, of_training: Labels, told: Labels, rng: np.random.Generator
) -> np.ndarray:
    """Log library sizes (n, 1) of cells of classes ``told``: normal, by maximum likelihood on each class.

    ``log_totals`` (N,) are the training cells'.
    """
    depth = np.empty((len(told), 1))
    for name in np.unique(told):
        of_class, wanted = log_totals[of_training == name], told == name
        depth[wanted, 0] = rng.normal(of_class.mean(), of_class.std(), wanted.sum())
    return depth


def _train(model: Any, **how: Any) -> None:
    """Train ``model``. Raises RuntimeError where it was interrupted, which the package lets pass."""
    model.train(enable_progress_bar=False, **how)
    if model.trainer.interrupted:
        raise RuntimeError("the training was interrupted: run the same command again.")
    model.module.eval()


@torch.no_grad()
def _inferred(model: Any, names: tuple[str, ...]) -> np.ndarray:
    """What the encoders of depth say of each training cell: (N, names)."""
    batches = []
    for tensors in model._make_data_loader(model.adata, shuffle=False):
        outputs = model.module.inference(**model.module._get_inference_input(tensors))
        batches.append(torch.cat([outputs[name] for name in names], dim=1).cpu())
    return torch.cat(batches).numpy()


def _resampled(depths: np.ndarray, cells: Any, told: Labels, rng: np.random.Generator) -> np.ndarray:
    return depths[cells_of_same_class(_classes(cells), told, rng)]


def _classes(cells: Any) -> Labels:
    return cells.obs[LABEL].astype(str).to_numpy()


def _fitted(
    model: Any, cells: Any, decode: Decode, depths: Callable[[Labels, np.random.Generator], np.ndarray]
) -> Fitted:
    """The trained ``model`` with its way to draw: z and depth here, the rest by ``decode``."""

    def draw(told: Labels, seed: int) -> dict[str, csr_matrix]:
        depth = depths(told, np.random.default_rng(hashed(seed, "peer depth")))
        codes = codes_of(_batches(model), told)
        torch.manual_seed(hashed(seed, "peer draws") >> 1)
        blocks = list(_blocks(model, decode, codes, depth))
        return {name: csr_matrix(vstack([b[name] for b in blocks], format="csr")) for name in blocks[0]}

    return Fitted(draw, {"epochs": len(model.history["elbo_validation"])})


def _batches(model: Any) -> Labels:
    """Classes in the order of the codes that the model has for them, which may be any."""
    registry = model.adata_manager.get_state_registry("batch")
    return np.asarray(registry.categorical_mapping).astype(str)


def codes_of(names: Labels, told: Labels) -> np.ndarray:
    """The place (n,) in ``names`` of each of ``told``. Raises KeyError for one that is not among them."""
    places = {name: place for place, name in enumerate(names.tolist())}
    return np.array([places[name] for name in told.tolist()], dtype=np.int64)


@torch.no_grad()
def _blocks(
    model: Any, decode: Decode, codes: np.ndarray, depth: np.ndarray
) -> Iterator[dict[str, csr_matrix]]:
    device = model.device
    for begin in range(0, len(codes), BATCH_CELLS):
        rows = slice(begin, begin + BATCH_CELLS)
        classes = torch.as_tensor(codes[rows], device=device)[:, None]
        factors = torch.as_tensor(depth[rows], dtype=torch.float32, device=device)
        z = torch.randn(len(classes), model.module.n_latent, device=device)
        counts = decode(z, classes, factors)
        yield {name: csr_matrix(x.cpu().numpy().astype(np.int32)) for name, x in counts.items()}
