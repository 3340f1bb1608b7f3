"""MLflow: one tracked run per run directory, and the registry of models. Nothing else imports mlflow."""

from .registry import FoundModel, ModelVersion, find_model, list_models, promote, require_valid, resolve_model
from .run import Tracker, TrainingData
from .store import TrackingError, connect, tracking_uri

__all__ = [
    "FoundModel",
    "ModelVersion",
    "Tracker",
    "TrackingError",
    "TrainingData",
    "connect",
    "find_model",
    "list_models",
    "promote",
    "require_valid",
    "resolve_model",
    "tracking_uri",
]
