"""The packages of tests/house/senders/package-lock.json, installed once outside of the checkout."""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from infra.ops.embedded.servers.jars import cache_dir

SENDERS = Path(__file__).resolve().parents[1] / "house" / "senders"
MANIFESTS = ("package.json", "package-lock.json")
INSTALL_S = 240.0


class PackagesMissing(Exception):
    """The packages cannot be installed here; the message says what to do."""


def install_packages() -> Path:
    """Return the folder `node_modules`. PackagesMissing."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise PackagesMissing(f"{program} is missing: install Node.js 20 or newer with npm")
    digest = hashlib.sha256((SENDERS / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = cache_dir() / "senders" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the files of tests run in several processes
        if not folder.exists():
            _install(folder)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    """Install beside the folder and rename, so that a folder that exists is complete."""
    staging = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for name in MANIFESTS:
            shutil.copy(SENDERS / name, staging)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        run = subprocess.run(command, cwd=staging, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if run.returncode:
            raise PackagesMissing(f"`npm ci` in tests/house/senders failed, it needs a registry: {run.stderr.strip()[-500:]}")
        staging.rename(folder)
    except subprocess.TimeoutExpired:
        raise PackagesMissing(f"`npm ci` in tests/house/senders took longer than {INSTALL_S:.0f} s") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


__all__ = ["PackagesMissing", "install_packages"]
