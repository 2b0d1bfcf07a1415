"""The current experiments, from the topic `bandit.experiments`."""

from collections.abc import Iterable, Iterator

from infra.errors import ConfigError
from infra.telemetry.logs import get_logger
from schemas.codec import Undecodable, UnknownContract, decode
from schemas.registry import Registry
from streams.bandit.experiment import Experiment, parse


class Catalogue:
    """The latest readable version of each experiment."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._experiments: dict[str, Experiment] = {}

    def apply(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Apply (key, value) records, oldest first. An unreadable record leaves the previous version in force."""
        for key, value in records:
            name = (key or b"").decode("ascii", "replace")
            if value is None:
                self._experiments.pop(name, None)
                continue
            try:
                _, record = decode(self._registry, value)
                experiment = parse(record["config"], name)
            except (ConfigError, Undecodable, UnknownContract) as error:
                get_logger().error("experiment not taken over", experiment=name, error=str(error))
                continue
            self._experiments[experiment.key] = experiment

    def get(self, key: str) -> Experiment | None:
        """Return an experiment, or None."""
        return self._experiments.get(key)

    def __iter__(self) -> Iterator[Experiment]:
        return iter(list(self._experiments.values()))

    def __len__(self) -> int:
        return len(self._experiments)

    @property
    def longest_window_ms(self) -> int:
        """The longest attribution window in milliseconds; 0 without experiments."""
        return max((experiment.window_ms for experiment in self), default=0)
