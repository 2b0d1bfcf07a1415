"""The contracts of one folder: every version ever published, its id, and which id a stage writes for an id it read."""

from pathlib import Path
from typing import TypeVar

from schemas.contract import WIRE_MAGIC, Contract, ContractError, Schema, UnknownContract, physical
from schemas.files import format_schema, read_contracts, read_json, read_lock, write_atomically
from schemas.publish import derive, lock

K = TypeVar("K")


class Registry:
    """Contracts by id and by topic, read from a folder; an unknown id makes it look whether the lock file has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_id: dict[int, Contract] = {}
        self._latest: dict[str, Contract] = {}
        self._derived: dict[tuple[int, str], Contract] = {}
        self._read: tuple[int, int, int] | None = None
        self.reload()

    def reload(self) -> bool:
        """Read the lock file if it has changed; True if it had. A storm of unknown ids costs one `stat` each, no reading."""
        stamp = self._file_stamp()
        if stamp == self._read:
            return False
        by_id: dict[int, Contract] = {}
        latest: dict[str, Contract] = {}
        derived: dict[tuple[int, str], Contract] = {}
        for entry in read_lock(self.folder)["contracts"]:
            # A version never changes, so one that is known stays the same object, with what it has parsed.
            contract = self._by_id.get(entry["id"]) or Contract(
                entry["topic"], entry["version"], entry["id"], entry["schema"], entry.get("source_id")
            )
            by_id[contract.id] = contract
            _keep_newest(latest, contract.topic, contract)
            if contract.source_id is not None:
                # A stage's own columns may change too: the newest contract derived from an id is what it writes.
                _keep_newest(derived, (contract.source_id, contract.topic), contract)
        self._by_id, self._latest, self._derived = by_id, latest, derived
        self._read = stamp
        return True

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = (self.folder / "lock.json").stat()
        except FileNotFoundError:
            return None
        # The file is replaced whole, so its inode tells two writes in one tick of the clock apart.
        return status.st_mtime_ns, status.st_ino, status.st_size

    def by_id(self, schema_id: int) -> Contract:
        """The contract with this id. UnknownContract if the folder has none."""
        contract = self._by_id.get(schema_id)
        if contract is None and self.reload():
            contract = self._by_id.get(schema_id)
        if contract is None:
            raise UnknownContract(f"no contract has id {schema_id}")
        return contract

    def latest(self, topic: str) -> Contract:
        """The newest contract of a topic. UnknownContract if it has none."""
        if topic not in self._latest:
            self.reload()
        try:
            return self._latest[topic]
        except KeyError:
            raise UnknownContract(f"no contract for topic {topic} in {self.folder}") from None

    def derived(self, source_id: int, topic: str) -> Contract:
        """What a stage writes to `topic` for a record it read with `source_id`: its lineage, never simply the latest."""
        contract = self._derived.get((source_id, topic))
        if contract is None and self.reload():
            contract = self._derived.get((source_id, topic))
        if contract is None:
            raise UnknownContract(f"no contract of {topic} is derived from id {source_id}")
        return contract

    def all(self) -> list[Contract]:
        """Every version, by id."""
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
