"""Deltas for `stream.counts`. Beyond the limit of cells a minute, events are counted as `other` of their source."""

from collections import Counter, OrderedDict
from collections.abc import Mapping

from schemas.codec import Record, encode
from schemas.registry import Registry
from streams.runtime.stage import BY_KEY, CountCell, Output

CELLS_A_MINUTE = 2_000
MINUTES_REMEMBERED = 120
OTHER = "other"


class CellCounts:
    """Counts of one worker since its last commit."""

    def __init__(self, registry: Registry, stage: str) -> None:
        self._registry = registry
        self._stage = stage
        self._pending: Counter[CountCell] = Counter()
        self._seen: OrderedDict[int, set[CountCell]] = OrderedDict()

    def add(self, counts: Mapping[CountCell, int]) -> int:
        """Add one batch's counts and return how many events were counted as `other`."""
        folded = 0
        for cell, n in counts.items():
            counted = self._bound(cell)
            if counted is not cell:
                folded += n
            self._pending[counted] += n
        return folded

    def _bound(self, cell: CountCell) -> CountCell:
        cells = self._seen.get(cell.minute)
        if cells is None:
            cells = self._seen[cell.minute] = set()
            while len(self._seen) > MINUTES_REMEMBERED:
                self._seen.popitem(last=False)
        if cell in cells:
            return cell
        if len(cells) >= CELLS_A_MINUTE:
            return cell._replace(event_name=OTHER, dimensions=())
        cells.add(cell)
        return cell

    def drain(self) -> dict[str, list[Output]]:
        """Return the records for `stream.counts` since the last call."""
        if not self._pending:
            return {}
        contract = self._registry.latest("stream.counts")
        pending, self._pending = self._pending, Counter()
        key = self._stage.encode()
        return {"stream.counts": [(key, encode(contract, self._record(cell, n)), BY_KEY) for cell, n in pending.items()]}

    def _record(self, cell: CountCell, n: int) -> Record:
        return {"stage": self._stage, **cell._asdict(), "dimensions": dict(cell.dimensions), "n": n}
