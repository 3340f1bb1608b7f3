"""The quality study's rows: each is one named change of settings, and why it is tried (METHOD 8)."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any


def digest_of(settings: Any) -> str:
    """Of JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DataSet:
    """Cells of a study: files in the folder of shared data; ``test`` None: a fifth is held out by hash."""

    name: str
    cells: str
    test: str | None = None
    label: str = "cell_type"


@dataclass(frozen=True)
class Row:
    """One change: settings of `train` ({label} is the data set's), and how cells are drawn.

    guidance  weight of the label
    steps     of the solver; None: as the model was saved
    interval  of the times at which guidance acts; None: as the model was saved
    """

    name: str
    why: str
    settings: tuple[str, ...] = ()
    guidance: float = 1.0
    steps: int | None = None
    interval: tuple[float, float] | None = None

    def for_label(self, label: str) -> tuple[str, ...]:
        """Settings of `train` on cells whose classes stand in ``label``."""
        return tuple(setting.replace("{label}", label) for setting in self.settings)

    def training(self) -> "Row":
        """The row without what is about drawing alone: rows of which it is the same share a training."""
        return replace(self, guidance=1.0, steps=None, interval=None)

    def digest(self, common: tuple[str, ...]) -> str:
        """Of all that decides a result beside data, seed and code."""
        said = {name: value for name, value in asdict(self).items() if name not in ("name", "why")}
        if self.interval is None:
            del said["interval"]  # results from before there were intervals are still those of their rows
        return digest_of([said, common])


DATA_SETS = {
    data.name: data
    for data in (
        DataSet("pbmc3k", "pbmc3k_train.h5ad", "pbmc3k_test.h5ad"),
        DataSet("zheng_sorted", "zheng_sorted_pbmc_3500x8846.h5ad"),
        DataSet("kang", "kang_pbmc_ctrl_12261x1287.h5ad"),
    )
}

NO_DROPOUT, NO_NOISE = "autoencoder.dropout=0", "model.autoencoder.latent_noise=0"
OPTIMAL_TRANSPORT = "flow.pairing=optimal_transport"
LOG_NORMAL = "model.size_factors=log_normal"
SIZES_PER_TYPE, SIZE_TOLD = "model.size_factors_by={label}", "model.velocity.size_factor_told=true"
LINEAR_SKIP, SCALED_SKIP = "model.velocity.skip=linear", "model.velocity.skip=scaled"
LOGIT_NORMAL = "flow.times.distribution=logit_normal"

ROWS = {
    row.name: row
    for row in (
        Row("default", "what all others are compared with"),
        # velocity
        Row(
            "width-32",
            "the reference's width, below the latent's 50",
            ("model.velocity.width=32", "model.velocity.embedding=20"),
        ),
        Row("width-128", "a narrower velocity", ("model.velocity.width=128",)),
        Row("width-512", "a wider velocity", ("model.velocity.width=512",)),
        Row("blocks-6", "a deeper velocity", ("model.velocity.blocks=6",)),
        Row("skip", "a linear path from z to the velocity's output", (LINEAR_SKIP,)),
        Row("skip-scaled", "one that the time scales", (SCALED_SKIP,)),
        Row(
            "width-32-skip",
            "the reference's width, with the path that its rank lacks",
            ("model.velocity.width=32", "model.velocity.embedding=20", LINEAR_SKIP),
        ),
        # whitening
        Row("latents-as-they-are", "the reference's", ("model.whitening=none",)),
        Row("unit-variance", "one scale for all dimensions", ("model.whitening=unit_variance",)),
        Row("per-dimension", "a scale for each dimension", ("model.whitening=per_dimension",)),
        # autoencoder
        Row("ae-no-early-stopping", "the reference's recipe overfits", ("autoencoder.patience=0",)),
        Row("ae-patience-10", "later stopping", ("autoencoder.patience=10",)),
        Row("ae-decay-1e-3", "weight decay", ("autoencoder.weight_decay=1e-3",)),
        Row("ae-decay-1e-2", "stronger weight decay", ("autoencoder.weight_decay=1e-2",)),
        Row("ae-rate-3e-4", "a lower learning rate", ("autoencoder.learning_rate=3e-4",)),
        Row("ae-narrow", "a smaller autoencoder", ("model.autoencoder.hidden=[256,128]",)),
        Row("ae-wide", "a larger autoencoder", ("model.autoencoder.hidden=[1024,512]",)),
        Row("ae-one-layer", "a shallower autoencoder", ("model.autoencoder.hidden=[512]",)),
        Row("ae-deep", "a deeper autoencoder", ("model.autoencoder.hidden=[512,256,128]",)),
        Row("latent-20", "a smaller latent", ("model.autoencoder.latent=20",)),
        Row("latent-32", "a smaller latent", ("model.autoencoder.latent=32",)),
        Row("latent-100", "a larger latent", ("model.autoencoder.latent=100",)),
        Row("ae-decaying-rate", "a learning rate that decays", ("autoencoder.decay=cosine",)),
        Row("ae-plain", "nothing disturbed, as the reference", (NO_DROPOUT, NO_NOISE)),
        Row("ae-noise-alone", "no dropout", (NO_DROPOUT,)),
        Row("ae-dropout-alone", "no noise on the latent", (NO_NOISE,)),
        Row("ae-dropout-0.2", "stronger dropout", ("autoencoder.dropout=0.2",)),
        Row("ae-dropout-0.4", "much stronger dropout", ("autoencoder.dropout=0.4",)),
        Row("ae-latent-noise-0.5", "less noise on the latent", ("model.autoencoder.latent_noise=0.5",)),
        Row("ae-latent-noise-2", "more noise on the latent", ("model.autoencoder.latent_noise=2",)),
        Row("ae-thinning-0.9", "fewer molecules heard", ("autoencoder.thinning=0.9",)),
        Row("input-normalised", "library size unheard", ("model.autoencoder.encoder_input=normalised",)),
        Row("input-expressed", "expressed genes heard", ("model.autoencoder.encoder_input=expressed",)),
        Row("theta-per-type", "dispersion of each type", ("model.autoencoder.theta_by={label}",)),
        Row("theta-start-1", "dispersion begins elsewhere", ("model.autoencoder.initial_theta=1",)),
        # size factors
        Row("sizes-log-normal", "one log-normal, the paper's", (LOG_NORMAL,)),
        Row("sizes-per-type", "a log-normal of each type", (LOG_NORMAL, SIZES_PER_TYPE)),
        Row("size-told", "and library size told to the flow", (LOG_NORMAL, SIZE_TOLD)),
        Row("size-told-per-type", "both", (LOG_NORMAL, SIZES_PER_TYPE, SIZE_TOLD)),
        # flow
        Row("ot", "minibatch optimal transport", (OPTIMAL_TRANSPORT,)),
        Row("ot-guidance-1.5", "with guidance, as the record", (OPTIMAL_TRANSPORT,), guidance=1.5),
        Row("no-ema", "the last weights instead of their average", ("flow.ema_half_life_cells=1",)),
        Row("ema-500k", "a longer average", ("flow.ema_half_life_cells=500000",)),
        Row("flow-6m", "three times the flow's budget", ("flow.cells=6000000",)),
        Row("flow-1m", "half the flow's budget", ("flow.cells=1000000",)),
        Row("flow-patience", "early stopping of the flow", ("flow.patience=20",)),
        Row("flow-decay-1e-2", "weight decay of the flow", ("flow.weight_decay=1e-2",)),
        Row("times-logit-normal", "the middle of the path more often", (LOGIT_NORMAL,)),
        Row(
            "times-logit-normal-late",
            "times near the data more often",
            (LOGIT_NORMAL, "flow.times.location=0.8"),
        ),
        Row(
            "times-beta-late",
            "times near the data more often, the end most of all",
            ("flow.times.distribution=beta", "flow.times.alpha=1.5"),
        ),
        Row("path-noise-1e-4", "the reference's noise about the path", ("flow.path_noise=1e-4",)),
        Row("path-noise-0.05", "much noise about the path", ("flow.path_noise=0.05",)),
        Row("untold-0.1", "told more often", ("flow.p_untold=0.1",)),
        Row("untold-0", "always told", ("flow.p_untold=0",)),
        # generation from the default model
        Row("guidance-1.25", "guidance above 1", guidance=1.25),
        Row("guidance-1.5", "guidance above 1", guidance=1.5),
        Row("guidance-2", "guidance above 1", guidance=2.0),
        Row("guidance-1.5-middle", "guidance in an interval", guidance=1.5, interval=(0.2, 0.8)),
        Row("guidance-2-middle", "guidance in an interval", guidance=2.0, interval=(0.2, 0.8)),
        Row("guidance-2-late", "guidance in an interval", guidance=2.0, interval=(0.4, 1.0)),
        Row("steps-100", "a finer integration", steps=100),
    )
}

# Levers that no setting of this version has: a row for one is given by --row once there is.
WITHOUT_SETTING = ("an encoder that attends to expressed genes (their vectors are summed)",)


def row_from_json(text: str) -> Row:
    """The inverse of ``json.dumps(asdict(row))``."""
    document: dict[str, Any] = json.loads(text)
    interval = document["interval"] and tuple(document["interval"])
    return Row(**(document | {"settings": tuple(document["settings"]), "interval": interval}))
