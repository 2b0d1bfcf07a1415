"""Standing houses for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.standing import StandingHouse


def standing(folder: Path, contracts: Path) -> Iterator[StandingHouse]:
    """Stopped by Ctrl-C, with nothing left behind."""
    house = StandingHouse(folder, contracts)
    house.start()
    yield house
    house.stop()


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory, contracts_dir: Path) -> Iterator[StandingHouse]:
    """One for all who leave its topics as they are."""
    yield from standing(tmp_path_factory.mktemp("house"), contracts_dir)


@pytest.fixture
def own_house(tmp_path: Path, contracts_dir: Path) -> Iterator[StandingHouse]:
    """One for a test whose replays would not add up for others."""
    yield from standing(tmp_path / "house", contracts_dir)
