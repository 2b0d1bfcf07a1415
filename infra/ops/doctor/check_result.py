"""The result of a check."""

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """Severity of a result."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `advice` is empty where nothing is to be done."""

    check: str
    grade: Grade
    detail: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """The keys that `headwater doctor --json` prints."""
        return {"what": self.check, "grade": self.grade, "found": self.detail, "advice": self.advice}
