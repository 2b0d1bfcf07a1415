"""Reconciliation of a small house in a real broker, and of the same house with injected faults."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

from infra.embedded.kafka import EmbeddedKafka
from infra.settings import Settings
from infra.simulator import drain
from infra.simulator.compare import Row
from infra.simulator.ledger import read
from infra.simulator.marks import marker
from infra.simulator.survey import Survey
from infra.topics_app import apply
from tests.infra.simulator.small_house import RUN, SmallHouse


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of our own: counts are compared over whole topics."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka.address
