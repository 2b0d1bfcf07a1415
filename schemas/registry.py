"""The contracts of one folder: every published version by id and topic, and the derived version for each source id."""

from pathlib import Path
from typing import TypeVar

from schemas.contract import WIRE_MAGIC, Contract, ContractError, Schema, UnknownContract, physical
from schemas.files import format_schema, read_contracts, read_json, read_lock, write_atomically
from schemas.publish import derive, lock

K = TypeVar("K")


class Registry:
    """Contracts by id and by topic. An unknown id makes it check whether the lock file has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_id: dict[int, Contract] = {}
        self._latest: dict[str, Contract] = {}
        self._derived: dict[tuple[int, str], Contract] = {}
        self._read: tuple[int, int, int] | None = None
        self.reload()

    def reload(self) -> bool:
        """Read the lock file if it has changed; return whether it had. Each unknown id costs one `stat`."""
        stamp = self._file_stamp()
        if stamp == self._read:
            return False
        by_id: dict[int, Contract] = {}
        latest: dict[str, Contract] = {}
        derived: dict[tuple[int, str], Contract] = {}
        for entry in read_lock(self.folder)["contracts"]:
            # A version never changes, so a known one stays the same object, with its parsed schemas.
            contract = self._by_id.get(entry["id"]) or Contract(
                entry["topic"], entry["version"], entry["id"], entry["schema"], entry.get("source_id")
            )
            by_id[contract.id] = contract
            _keep_newest(latest, contract.topic, contract)
            if contract.source_id is not None:
                # A stage's columns may change too: it writes the newest contract derived from an id.
                _keep_newest(derived, (contract.source_id, contract.topic), contract)
        self._by_id, self._latest, self._derived = by_id, latest, derived
        self._read = stamp
        return True

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = (self.folder / "lock.json").stat()
        except FileNotFoundError:
            return None
        # The file is replaced, so its inode distinguishes two writes within one tick of the clock.
        return status.st_mtime_ns, status.st_ino, status.st_size

    def by_id(self, schema_id: int) -> Contract:
        """Return the contract with this id. UnknownContract."""
        contract = self._by_id.get(schema_id)
        if contract is None and self.reload():
            contract = self._by_id.get(schema_id)
        if contract is None:
            raise UnknownContract(f"no contract has id {schema_id}")
        return contract

    def latest(self, topic: str) -> Contract:
        """Return the newest contract of a topic. UnknownContract."""
        if topic not in self._latest:
            self.reload()
        try:
            return self._latest[topic]
        except KeyError:
            raise UnknownContract(f"no contract for topic {topic} in {self.folder}") from None

    def derived(self, source_id: int, topic: str) -> Contract:
        """Return the contract of `topic` for records derived from `source_id`; it need not be the latest. UnknownContract."""
        contract = self._derived.get((source_id, topic))
        if contract is None and self.reload():
            contract = self._derived.get((source_id, topic))
        if contract is None:
            raise UnknownContract(f"no contract of {topic} is derived from id {source_id}")
        return contract

    def all(self) -> list[Contract]:
        """Return every version, ordered by id."""
        self.reload()
        return [self._by_id[i] for i in sorted(self._by_id)]


def _keep_newest(newest: dict[K, Contract], key: K, contract: Contract) -> None:
    if key not in newest or newest[key].version < contract.version:
        newest[key] = contract


__all__ = [
    "WIRE_MAGIC",
    "Contract",
    "ContractError",
    "Registry",
    "Schema",
    "UnknownContract",
    "derive",
    "format_schema",
    "lock",
    "physical",
    "read_contracts",
    "read_json",
    "read_lock",
    "write_atomically",
]
