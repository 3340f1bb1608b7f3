"""Library sizes p(l): log-normal over all cells, or per level of one attribute (METHOD 2, Sec. 4.1)."""

from dataclasses import dataclass

import torch

from .counter_draws import CounterDraws
from .types import AtlasSchema, LibraryStatistics

MIN_CELLS_OF_A_LEVEL = 2


@dataclass(frozen=True)
class SizeFactors:
    """Log-normal size factors, fitted by maximum likelihood on log l of the training cells.

    by          attribute whose levels have a distribution each, or None
    mean, sd    (S, 1 + L) float32 of log l; column 0: all cells; column 1 + c: cells of level c. A level
                with fewer than 2 training cells has the distribution of all cells
    log_range   (S, 2) float32, smallest and largest log l of the training cells
    """

    by: str | None
    mean: torch.Tensor
    sd: torch.Tensor
    log_range: torch.Tensor

    @staticmethod
    def fit(libraries: tuple[LibraryStatistics, ...], schema: AtlasSchema, by: str | None) -> "SizeFactors":
        """From the statistics of the training cells. Raises SchemaError if ``by`` is no attribute."""
        levels = schema.covariate(by).categories if by is not None else ()
        tables = []
        for library in libraries:
            of_level = library.by_label.get(by, {}) if by is not None else {}
            chosen = [of_level.get(level) for level in levels]
            tables.append(
                [library.overall]
                + [t if t and t.n >= MIN_CELLS_OF_A_LEVEL else library.overall for t in chosen]
            )
        return SizeFactors(
            by,
            torch.tensor([[t.log_mean for t in row] for row in tables]),
            torch.tensor([[t.log_sd for t in row] for row in tables]),
            torch.tensor([[library.log_min, library.log_max] for library in libraries]),
        )

    def sample(self, labels: torch.Tensor, schema: AtlasSchema, draws: CounterDraws) -> torch.Tensor:
        """Log size factors (B, S) float32 for cells of ``labels`` (B, K); not told: of all cells."""
        column = torch.zeros(len(labels), dtype=torch.int64)
        if self.by is not None:
            column = labels[:, schema.covariate_index(self.by)].cpu() + 1
        noise = draws.normal("size factors", torch.arange(len(labels)), len(self.mean))
        return self.mean[:, column].T + self.sd[:, column].T * noise
