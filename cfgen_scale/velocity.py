"""The velocity network u_t(z | y, l): a conditional residual network (METHOD 4, paper C.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from .layers import ConditionedBlock, ConditionVectors, LinearSkip, ScalarEmbedding
from .types import AttributesTold, Condition


@dataclass(frozen=True)
class VelocityConfig:
    """Shape of the velocity network.

    width               H, hidden units. At least the latent's D: a narrower network leaves directions of
                        the latent untouched noise (METHOD 8a)
    blocks              residual blocks
    embedding           C, width of the time, size-factor and attribute embeddings
    size_factor_told    tell the flow the log size factors: p(z | y, l) instead of p(z | y)
    attributes_told     what a cell is told in training, unless nothing: "one" attribute (Algorithm 1), "all"
                        it has, or a "subset", each as likely; guidance goes by it (guidance.py)
    skip                a path from z to the output beside the network, so that a network narrower than the
                        latent leaves no direction as it is: "none"; "linear", W z; or "scaled", whose D
                        outputs are each multiplied by a number that the time and what is told decide, as the
                        velocity of a normal distribution is by one of the time. W starts at zero
    """

    width: int = 256
    blocks: int = 3
    embedding: int = 128
    size_factor_told: bool = False
    attributes_told: AttributesTold = "one"
    skip: Literal["none", "linear", "scaled"] = "none"


class Velocity(nn.Module):
    """u_t(z | what is told): t (B,), z (B, D), Condition -> (B, D).

    The condition vector is the sum of the time embedding, the size-factor embeddings (if told) and the
    embeddings of the attributes told; a label of -1 adds nothing. ``log_size_range`` (S, 2) is the range
    of log l over the training cells, which maps to [0, 1] before its features.
    """

    log_size_range: torch.Tensor

    def __init__(
        self,
        config: VelocityConfig,
        *,
        latent: int,
        n_categories: Sequence[int],
        log_size_range: torch.Tensor,
    ) -> None:
        super().__init__()
        self.config = config
        self.time = ScalarEmbedding(config.embedding)
        self.attributes = nn.ModuleList(nn.Embedding(n, config.embedding) for n in n_categories)
        n_sizes = len(log_size_range) if config.size_factor_told else 0
        self.size_factors = nn.ModuleList(ScalarEmbedding(config.embedding) for _ in range(n_sizes))
        self.register_buffer("log_size_range", log_size_range.float())
        self.inward = nn.Linear(latent, config.width)
        self.blocks = nn.ModuleList(
            ConditionedBlock(config.width, config.embedding) for _ in range(config.blocks)
        )
        self.outward = nn.Sequential(nn.SiLU(), nn.Linear(config.width, latent))
        self.skip = None
        if config.skip != "none":
            scaled_by = config.embedding if config.skip == "scaled" else None
            self.skip = LinearSkip(latent, scaled_by=scaled_by)

    def condition_vectors(self, t: torch.Tensor, condition: Condition) -> ConditionVectors:
        """The vectors c (B, C) that every block is told. Cells that share a time, an expanded one, and labels
        share a vector, unless they are told their size factors."""
        labels, of_cell = condition.labels, None
        if t.stride(0) == 0 and not self.config.size_factor_told:
            labels, of_cell = condition.distinct_labels
        c = self.time(t[: len(labels)])
        for k, embedding in enumerate(self.attributes):
            label = labels[:, k]
            told = (label >= 0)[:, None]
            c = c + torch.where(told, embedding(label.clamp(min=0)), 0.0)
        for s, embedding in enumerate(self.size_factors):
            low, high = self.log_size_range[s]
            c = c + embedding((condition.log_size_factor[:, s] - low) / (high - low).clamp(min=1e-6))
        return ConditionVectors(c, of_cell)

    def forward(self, t: torch.Tensor, z: torch.Tensor, condition: Condition) -> torch.Tensor:
        c = self.condition_vectors(t, condition)
        h = self.inward(z)
        for block in self.blocks:
            h = block(h, c)
        u = self.outward(h).float()
        return u if self.skip is None else u + self.skip(z, c).float()
