"""Fuzzing of the collector's parsers, guided by coverage where atheris is installed, else by seeded mutations.

    python -m tests.fuzz.run own --seconds 1200

Ends with status 1, and with the input in hexadecimal or in a crash file, on the first exception that is no refusal.
"""

import argparse
import random
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.seeds import SEEDS, mutate

LARGEST = 65_536
"""Bytes of an input."""
MEMORY_MB = 2_048


class FuzzReport(NamedTuple):
    """How many inputs ran, and the CPU seconds of the slowest."""

    inputs: int
    slowest_s: float


def run_mutations(name: str, seconds: float, seed: int = 16, limit: int = LARGEST) -> FuzzReport:
    """Run a target with mutations of its seeds for this time, or until it raises."""
    from tests.fuzz.targets import TARGETS

    target, choose = TARGETS[name], random.Random(seed)
    corpus, inputs, slowest_s = list(SEEDS[name]), 0, 0.0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutate(choose.choice(corpus), choose, limit) if inputs >= len(SEEDS[name]) else corpus[inputs]
        started = time.process_time()
        try:
            target(data)
        except Exception as error:
            error.add_note(f"input of {name}: {data.hex()}")
            raise
        slowest_s = max(slowest_s, time.process_time() - started)
        inputs += 1
        if len(corpus) < 500 and choose.random() < 0.05:
            corpus.append(data)
    return FuzzReport(inputs, slowest_s)


def run_guided(name: str, seconds: int, folder: Path) -> None:
    """Run a target under atheris. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["streams.collector", "infra.parsing", "infra.http"]):
        from tests.fuzz.targets import TARGETS

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(data)
    flags = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={LARGEST}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(SEEDS))
    parser.add_argument("--seconds", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=16, help="of mutations, without atheris")
    arguments = parser.parse_args()
    if find_spec("atheris"):
        run_guided(arguments.target, arguments.seconds, Path(tempfile.mkdtemp(prefix="headwater-fuzz-")))
    report = run_mutations(arguments.target, arguments.seconds, arguments.seed)
    sys.stdout.write(f"{arguments.target}: {report.inputs} inputs, the slowest took {report.slowest_s * 1000:.0f} ms of CPU\n")


if __name__ == "__main__":
    main()
