"""A short run of each fuzzing target; `make fuzz` runs them long."""

import pytest

from tests.fuzz.run import run_mutations
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS
from tests.support.scale import FULL


def test_each_target_has_seeds() -> None:
    """No target starts from nothing."""
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_any_bytes_are_parsed_or_refused(name: str) -> None:
    """Mutations of well-formed inputs raise nothing but refusals, and what comes out is bounded."""
    report = run_mutations(name, 20 if FULL else 1, limit=8_192)
    assert report.inputs > len(SEEDS[name])
