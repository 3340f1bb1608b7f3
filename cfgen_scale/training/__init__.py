"""Training: two stages, one loop."""

from .config import AutoencoderStageConfig, FlowStageConfig, StageConfig, TrainConfig
from .loop import run_stage
from .stage_run import Cells, NonFiniteLossError
from .stages import AutoencoderStage, FlowStage, LatentBatch

__all__ = [
    "AutoencoderStage",
    "AutoencoderStageConfig",
    "Cells",
    "FlowStage",
    "FlowStageConfig",
    "LatentBatch",
    "NonFiniteLossError",
    "StageConfig",
    "TrainConfig",
    "run_stage",
]
