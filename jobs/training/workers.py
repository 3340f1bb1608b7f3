"""How many workers: a number, or between so many and so many, as the cluster has room for."""

import re
from dataclasses import dataclass

from ..config import ConfigError


@dataclass(frozen=True)
class Workers:
    """At least ``least`` and at most ``most`` workers; 0: this process, without Ray."""

    least: int
    most: int

    @property
    def elastic(self) -> bool:
        return self.least < self.most

    @staticmethod
    def of(told: "Workers | int | str") -> "Workers":
        """``2``, ``"2"`` or ``"1:4"``. Raises ConfigError for anything else."""
        if isinstance(told, Workers):
            return told
        found = re.fullmatch(r"(\d+)(?::(\d+))?", str(told))
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if least > most or (least == 0 and most > 0):
            raise ConfigError(
                "workers must be 0 (this process, no Ray), a number such as 2, or a range such as 1:4, "
                f"not {told}."
            )
        return Workers(least, most)
