"""Are the generated cells like real ones? Distances with floors, moments, classifiers, a report."""

from .cells import EvaluationError
from .comparison import evaluate
from .report import write_report
from .settings import EvaluationSettings
from .table import summary_table

__all__ = ["EvaluationError", "EvaluationSettings", "evaluate", "summary_table", "write_report"]
