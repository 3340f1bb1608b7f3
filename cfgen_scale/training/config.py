"""What a training run is told: the model, and for each stage its budget, in cells."""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..autoencoder import AutoencoderConfig
from ..model_config import ModelConfig
from ..times import TimesConfig

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class StageConfig:
    """Budget and optimisation of one stage; every interval is a number of cells, not of steps.

    cells                   cells seen in all, over all workers; 0 skips nothing: it is refused
    batch_cells             cells of a global batch, over all workers
    cells_at_once           a worker takes its share of a batch through the network in parts of at most so
                            many cells, and sums their gradients: for batches that do not fit its memory.
                            None: all at once
    learning_rate           of AdamW after the warm-up
    weight_decay            of AdamW; not applied to theta
    clip_norm               largest gradient norm
    warmup_cells            linear warm-up of the learning rate
    decay                   "cosine" to a fiftieth at the end of the budget, or "none"
    ema_half_life_cells     half-life of the averaged weights, which are validated and kept
    validate_every_cells    None: once an epoch, but at least 20 times in the budget
    validation_cells        at most so many validation cells are scored
    patience                validations without a better one before the stage stops early; 0: never. With
                            patience the weights of the best validation are kept, else the last ones
    checkpoint_every_cells  None: 50 times in the budget; where that were more often than every 50 batches,
                            every 50 batches, but at least 10 times. A kill loses so many cells at most
    """

    cells: int
    batch_cells: int
    learning_rate: float
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    warmup_cells: int = 10_000
    decay: Literal["cosine", "none"] = "none"
    ema_half_life_cells: int = 50_000
    validate_every_cells: int | None = None
    validation_cells: int = 10_000
    patience: int = 0
    checkpoint_every_cells: int | None = None
    cells_at_once: int | None = None

    def __post_init__(self) -> None:
        for name in ("cells", "batch_cells", "learning_rate", "clip_norm", "ema_half_life_cells"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("weight_decay", "warmup_cells", "patience", "validation_cells"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        if self.patience and not self.validation_cells:
            raise ValueError("patience stops by validation cells: validation_cells must be positive.")
        for name in ("validate_every_cells", "checkpoint_every_cells", "cells_at_once"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")

    def validation_interval(self, n_cells: int) -> int:
        """Cells between validations for ``n_cells`` training cells."""
        return self.validate_every_cells or max(1, min(n_cells, self.cells // 20))

    def report_interval(self) -> int:
        """Cells between rows of metrics: ten batches, but at most 2,000 rows in the budget."""
        return max(10 * self.batch_cells, self.cells // 2000)

    def checkpoint_interval(self) -> int:
        """Cells between checkpoints."""
        sparse = min(50 * self.batch_cells, self.cells // 10)
        return self.checkpoint_every_cells or max(1, self.cells // 50, sparse)


@dataclass(frozen=True)
class AutoencoderStageConfig(StageConfig):
    """The autoencoder's stage: as any, and what disturbs it in training, not in validation (`Perturbation`;
    noise on the latent is the model's).

    dropout         share of hidden units dropped, in encoders and decoders
    thinning        the encoder hears a share of each cell's molecules, uniform between 1 - thinning and 1;
                    the likelihood is that of all of them
    """

    dropout: float = 0.0
    thinning: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share of hidden units below 1, not {self.dropout}.")
        if not 0 <= self.thinning <= 1:
            raise ValueError(f"thinning is a share of molecules, not {self.thinning}.")

    @property
    def perturbs(self) -> bool:
        """Whether anything is disturbed."""
        return bool(self.dropout or self.thinning)


@dataclass(frozen=True)
class FlowStageConfig(StageConfig):
    """The flow's stage: as any, and what Algorithm 1 leaves open.

    p_untold    probability that a cell is told no attribute
    pairing     "none", or "optimal_transport" between the noise and the data of each global batch
    times       at which times of the path it is trained; validated at uniform ones, so that the losses of
                runs with other times compare
    path_noise  standard deviation of points about the path, in training alone (the authors' code: 1e-4)
    """

    p_untold: float = 0.2
    pairing: Literal["none", "optimal_transport"] = "none"
    times: TimesConfig = field(default_factory=TimesConfig)
    path_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p_untold <= 1:
            raise ValueError(f"p_untold is a probability, not {self.p_untold}.")
        if not 0 <= self.path_noise < math.inf:
            raise ValueError(f"path_noise must not be negative, not {self.path_noise}.")


def _autoencoder_stage() -> AutoencoderStageConfig:
    return AutoencoderStageConfig(
        cells=2_000_000, batch_cells=256, learning_rate=1e-3, patience=5, dropout=0.1
    )


def _model() -> ModelConfig:
    """Dropout and noise on the latent keep the autoencoder from learning its cells by heart: held-out counts
    become more likely, and generated cells better by nearly all figures (row "ae-plain" of the study is
    without)."""
    return ModelConfig(AutoencoderConfig(latent_noise=1.0))


def _flow_stage() -> FlowStageConfig:
    return FlowStageConfig(
        cells=2_000_000,
        batch_cells=512,
        learning_rate=1e-3,
        decay="cosine",
        warmup_cells=100_000,
        ema_half_life_cells=100_000,
    )


@dataclass(frozen=True)
class TrainConfig:
    """A whole run: the model and its two stages.

    seed        of every draw of the run
    precision   of matrix products; "auto": bfloat16 on a GPU, float32 on a CPU (where bfloat16 is slower).
                Likelihoods, losses and the ODE state are float32 always
    threads     CPU threads of each worker; 0: the CPUs that it may use (affinity, quota of a container)
                shared among the workers of its machine
    granularity order of the cells: "uniform"; "blocks" for stores where random rows are slow; "auto" takes
                what suits the store
    """

    model: ModelConfig = field(default_factory=_model)
    autoencoder: AutoencoderStageConfig = field(default_factory=_autoencoder_stage)
    flow: FlowStageConfig = field(default_factory=_flow_stage)
    seed: int = 0
    precision: Precision = "auto"
    threads: int = 0
    granularity: Literal["auto", "uniform", "blocks"] = "auto"
