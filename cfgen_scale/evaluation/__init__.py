"""Are the generated cells like real ones? Distances with floors, moments, classifiers, a report; and the
protocols of guidance and imputation."""

from .cells import EvaluationError
from .comparison import evaluate
from .guidance_grid import guidance_grid
from .intersection import IntersectionSettings, intersection
from .report import write_report
from .settings import EvaluationSettings
from .table import summary_table

__all__ = [
    "EvaluationError",
    "EvaluationSettings",
    "IntersectionSettings",
    "evaluate",
    "guidance_grid",
    "intersection",
    "summary_table",
    "write_report",
]
