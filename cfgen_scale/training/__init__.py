"""Training: two stages, one loop."""

from .config import FlowStageConfig, StageConfig, TrainConfig
from .loop import run_stage
from .stage_run import Cells, NonFiniteLossError
from .stages import AutoencoderStage, FlowStage, LatentBatch

__all__ = [
    "AutoencoderStage",
    "Cells",
    "FlowStage",
    "FlowStageConfig",
    "LatentBatch",
    "NonFiniteLossError",
    "StageConfig",
    "TrainConfig",
    "run_stage",
]
