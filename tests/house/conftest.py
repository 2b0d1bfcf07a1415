"""Running installations for the tests of this folder."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.standing import StandingHouse


def standing(folder: Path, contracts: Path) -> Iterator[StandingHouse]:
    """Start an installation that pages of the shop ask for decisions; stop it by Ctrl-C, which must leave no process."""
    house = StandingHouse(folder, contracts)
    house.environment["HEADWATER_DECISION_ORIGINS"] = json.dumps(["https://shop.example"])
    house.start()
    yield house
    house.stop()


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory, contracts_dir: Path) -> Iterator[StandingHouse]:
    """An installation shared by tests that do not replay topics."""
    yield from standing(tmp_path_factory.mktemp("house"), contracts_dir)


@pytest.fixture
def own_house(tmp_path: Path, contracts_dir: Path) -> Iterator[StandingHouse]:
    """A separate installation for a test that replays topics."""
    yield from standing(tmp_path / "house", contracts_dir)
