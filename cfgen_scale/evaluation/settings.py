"""What is open to choice in an evaluation. The defaults are those of every figure quoted (METHOD 7)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationSettings:
    """Sizes and limits.

    n_genes             variable genes the basis is fitted on
    n_components        principal components distances are taken in
    repeats             draws of cells a distance is averaged over, per seed
    max_cells           cells on each side of a distance, at most
    max_cells_auc       cells on each side of the two-sample classifiers, at most
    max_real            test cells, and cells of each half of the training cells, at most
    """

    n_genes: int = 2000
    n_components: int = 30
    repeats: int = 3
    max_cells: int = 5000
    max_cells_auc: int = 5000
    max_real: int = 50_000
