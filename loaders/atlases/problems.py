"""What a check has to say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: its kind, what and where, and what to do about it."""

    kind: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}. {self.remedy}."
