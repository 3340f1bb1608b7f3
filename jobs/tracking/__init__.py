"""MLflow: one tracked run per run directory, and the registry of models. Nothing else imports mlflow."""

from .registry import ModelVersion, list_models, promote, require_valid, resolve_model
from .run import Tracker, TrainingData
from .store import TrackingError, connect, tracking_uri

__all__ = [
    "ModelVersion",
    "Tracker",
    "TrackingError",
    "TrainingData",
    "connect",
    "list_models",
    "promote",
    "require_valid",
    "resolve_model",
    "tracking_uri",
]
