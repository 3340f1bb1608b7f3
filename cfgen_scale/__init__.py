"""CFGen at atlas scale: the science. See ``CFGen`` for the model and ``types`` for what flows.

Names are imported when first used: commands that only look at files need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import CFGen
    from .model_config import ModelConfig
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"CFGen": ".model", "ModelConfig": ".model_config"}.get(name, ".types")
    return getattr(import_module(module, __name__), name)
