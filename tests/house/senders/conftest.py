"""The packages of the SDKs, and a skip that says what is missing where there are none."""

from pathlib import Path

import pytest

from infra.ops.topics import apply
from infra.settings import Settings
from tests.support.npm_packages import PackagesMissing, install_packages


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder `node_modules`."""
    try:
        return install_packages()
    except PackagesMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def broker(kafka: str) -> str:
    """Bootstrap address of a broker with the topics."""
    apply(Settings(kafka=kafka))
    return kafka
