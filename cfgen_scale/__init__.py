"""CFGen at atlas scale: the science. See ``CFGen`` for the model and ``types`` for what flows."""

from .model import CFGen, ModelConfig
from .types import AtlasSchema, CellBatch, Condition, Covariate, GeneratedCells, Modality

__all__ = [
    "AtlasSchema",
    "CFGen",
    "CellBatch",
    "Condition",
    "Covariate",
    "GeneratedCells",
    "Modality",
    "ModelConfig",
]
