"""The checker, installed once outside of the tree, and its findings for the template."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.gtm.checker import FOLDER, TEMPLATE, Checker, node_and_npm


@pytest.fixture(scope="session", autouse=True)
def no_compile_cache() -> Iterator[None]:
    """Npm would leave compiled scripts in the machine's temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODE_DISABLE_COMPILE_CACHE", "1")
        yield


@pytest.fixture(scope="session")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """Packages as locked, in a temporary folder beside a copy of the scripts."""
    folder = tmp_path_factory.mktemp("gtm")
    for file in [*FOLDER.glob("*.mjs"), *FOLDER.glob("*.json"), FOLDER / "headwater.tpl"]:
        shutil.copy(file, folder)
    node, npm = node_and_npm()
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    install = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert install.returncode == 0, install.stderr
    return Checker(node, folder)


@pytest.fixture(scope="session")
def findings(checker: Checker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checker's findings for the template."""
    return checker.check(TEMPLATE, tmp_path_factory.mktemp("template") / "as-it-stands.tpl")[1]
