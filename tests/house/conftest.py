"""One standing house for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.standing import StandingHouse


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory, contracts_dir: Path) -> Iterator[StandingHouse]:
    """Stopped by Ctrl-C, with nothing left behind."""
    house = StandingHouse(tmp_path_factory.mktemp("house"), contracts_dir)
    house.start()
    yield house
    house.stop()
