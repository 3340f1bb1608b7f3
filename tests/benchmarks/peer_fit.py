"""What a peer gives back once it is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy.sparse import csr_matrix

from tests.benchmarks.peer_cells import Labels


@dataclass(frozen=True)
class Fitted:
    """A trained peer.

    draw       from classes (n,) and a seed: counts (n, features), int32 CSR, by modality
    described  what it says of its training, as JSON
    """

    draw: Callable[[Labels, int], dict[str, csr_matrix]]
    described: dict[str, Any]
