"""Adds bytes of new contract versions to `contracts.json`; existing entries are never changed.

Run by hand after publishing: python tests/golden/regenerate.py
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from infra.settings import PACKAGED_CONTRACTS
from schemas.codec import encode
from schemas.registry import Contract, Registry

GOLDEN = Path(__file__).with_name("contracts.json")


def sample(avro: Any, draw: random.Random) -> Any:
    """A value of an Avro type; JSON can hold it (bytes as hex come from `as_bytes`)."""
    kind = avro if isinstance(avro, str) else avro["type"]
    if kind == "map":
        return {f"k{i}": sample(avro["values"], draw) for i in range(draw.randint(0, 3))}
    if kind == "array":
        return [sample(avro["items"], draw) for _ in range(draw.randint(0, 3))]
    samples = {
        "string": draw.choice(("", "shop.example", "Größe 🛒", "x" * 200)),
        "long": draw.choice((0, -1, 1_795_486_013_293, (1 << 63) - 1, -(1 << 63))),
        "int": draw.choice((0, -1, 7, (1 << 31) - 1, -(1 << 31))),
        "double": draw.choice((0.0, -1.5, 19.99, 1e300)),
        "boolean": draw.random() < 0.5,
        "bytes": draw.randbytes(8).hex(),
    }
    return samples[kind] if isinstance(kind, str) else sample(kind, draw)


def as_bytes(contract: Contract, record: dict[str, Any]) -> dict[str, Any]:
    """The record with its byte fields, which JSON holds as hex, as bytes."""
    kinds = {field["name"]: field["type"] for field in contract.schema["fields"]}
    return {name: bytes.fromhex(value) if kinds[name] == "bytes" else value for name, value in record.items()}


def main() -> None:
    """Append the missing versions."""
    golden: dict[str, list[dict[str, Any]]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for contract in Registry(PACKAGED_CONTRACTS).all():
        draw = random.Random(contract.id)
        if str(contract.id) not in golden:
            records = [{f["name"]: sample(f["type"], draw) for f in contract.schema["fields"]} for _ in range(3)]
            golden[str(contract.id)] = [{"record": r, "hex": encode(contract, as_bytes(contract, r)).hex()} for r in records]
    GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
