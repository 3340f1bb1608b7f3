"""What is open to choice in an evaluation. The defaults are those of every figure quoted (METHOD 7)."""

from dataclasses import dataclass
from typing import Literal, get_args

Likelihood = Literal["negative_binomial", "bernoulli", "poisson"]


@dataclass(frozen=True)
class EvaluationSettings:
    """Sizes and limits, and what the counts are.

    n_genes             variable genes the basis is fitted on; of peaks all are
    n_components        principal components distances are taken in
    repeats             draws of cells a distance is averaged over, per seed
    max_cells           cells on each side of a distance, at most
    max_cells_auc       cells on each side of the two-sample classifiers and of manifolds, at most
    max_real            test cells, and cells of each half of the training cells, at most
    n_markers           marker features of each class
    likelihood          of the model's counts. negative_binomial: genes, log-normalised. bernoulli: peaks,
                        open or not (counts are binarised on both sides), after TF-IDF. poisson: counts of
                        peaks, after TF-IDF
    """

    n_genes: int = 2000
    n_components: int = 30
    repeats: int = 3
    max_cells: int = 5000
    max_cells_auc: int = 5000
    max_real: int = 50_000
    n_markers: int = 10
    likelihood: Likelihood = "negative_binomial"

    def __post_init__(self) -> None:
        if self.likelihood not in get_args(Likelihood):
            known = ", ".join(get_args(Likelihood))
            raise ValueError(f"unknown likelihood {self.likelihood!r}. It is one of {known}.")

    @property
    def of_peaks(self) -> bool:
        """Whether the features are peaks rather than genes."""
        return self.likelihood != "negative_binomial"
