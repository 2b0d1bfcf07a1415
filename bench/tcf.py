"""`python -m bench.tcf`: measures the uncached TC string decoder beside `iab-tcf`, and the cost of the worst inputs.

Both decode the official library's vectors that `iab-tcf` accepts, alternately, in one process; the best round counts.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from streams.consent.formats.tc_string import InvalidTcString, decode

VECTORS = Path(__file__).parents[1] / "tests/golden/tcf/vectors.json"
PEER = "iab-tcf==0.2.2"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def rate(decoder: Callable[[str], object], strings: list[str]) -> float:
    """Return the strings decoded a second."""
    began = time.perf_counter()
    for string in strings:
        decoder(string)
    return len(strings) / (time.perf_counter() - began)


def install_peer(folder: str) -> Callable[[str], object]:
    """Install and return the peer's decoder. It goes into `folder`, because its wheel contains a package called `tests`."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", folder, PEER]
    subprocess.run(command, check=True)
    sys.path.append(folder)
    decode_v2: Callable[[str], object] = importlib.import_module("iab_tcf").decode_v2
    return decode_v2


def peer_accepts(peer_decode: Callable[[str], object], string: str) -> bool:
    """Return whether the peer decodes the string."""
    try:
        peer_decode(string)
    except Exception:  # whatever it raises: this string is left out
        return False
    return True


def worst_inputs() -> list[str]:
    """Return inputs of 8 KiB: as many single ids, ranges over everything, restrictions and bits as fit, and noise."""
    head = f"{2:06b}" + "0" * 132 + "1" + "0" * 74
    budget = 8_192 * 6
    singles = head + f"{65_535:016b}1{2_800:012b}" + "".join(f"0{1 + 23 * n % 65_535:016b}" for n in range(2_800))
    ranges = head + f"{65_535:016b}1{1_450:012b}" + f"1{1:016b}{65_535:016b}" * 1_450
    field = head + f"{48_000:016b}0" + "1" * 48_000
    restrictions = head + ("0" * 17) * 2 + f"{900:012b}" + (f"{2:06b}01{1:012b}1{1:016b}{65_535:016b}") * 900
    noise = f"{2:06b}" + f"{random.Random(5).getrandbits(budget - 6):0{budget - 6}b}"
    inputs = []
    for bits in (singles, ranges, field, restrictions, noise):
        whole = (bits[:budget]).ljust(budget, "0")
        inputs.append("".join(ALPHABET[int(whole[at : at + 6], 2)] for at in range(0, budget, 6)))
    return inputs


def slowest_ms(inputs: list[str]) -> float:
    """Return the largest of the inputs' times, each the best of five."""
    worst = 0.0
    for string in inputs:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            with contextlib.suppress(InvalidTcString):
                decode(string)
            times.append(time.perf_counter() - began)
        worst = max(worst, min(times))
    return worst * 1_000


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.tcf", description=__doc__, epilog="Example: python -m bench.tcf --json"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        figures = measure(install_peer(folder), arguments.rounds)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        Console().print(f"{name:>18}: {value:,}", highlight=False)


def measure(peer_decode: Callable[[str], object], rounds: int) -> dict[str, float]:
    """Measure both decoders alternately."""
    strings = [vector["text"] for vector in json.loads(VECTORS.read_text())]
    both = [string for string in strings if peer_accepts(peer_decode, string)]
    own_rate, peer_rate = 0.0, 0.0
    for _ in range(rounds):
        own_rate = max(own_rate, rate(decode, both * 5))
        peer_rate = max(peer_rate, rate(peer_decode, both))
    return {
        "strings": len(both), "ours_per_s": round(own_rate), "iab_tcf_per_s": round(peer_rate),
        "ratio": round(own_rate / peer_rate, 1), "slowest_8_kib_ms": round(slowest_ms(worst_inputs()), 2),
        "load": os.getloadavg()[0],
    }  # fmt: skip


if __name__ == "__main__":
    main()
