"""Exceptions by their consequence. Only app files and the runtime catch them."""


class ConfigError(Exception):
    """A setting that cannot work. The message names the setting and the remedy. Exit code 78."""


class Retryable(Exception):
    """A dependency is unavailable (Redis, Kafka, ClickHouse): nothing is committed; back off and retry the same work.

    `service` names the dependency for the metrics, where the raising code knows it.
    """

    def __init__(self, text: str, service: str = "") -> None:
        super().__init__(text)
        self.service = service


class Halted(Exception):
    """Continuing would do harm (too many dead letters, an impossible offset): stop and wait for an operator. Exit code 75."""


def unreachable_message(error: Retryable) -> str:
    """Return the message for a command that could not reach the running services."""
    return f"{error}. Is the house up (`headwater up`), and does HEADWATER_STATE_DIR name it?"


EXIT_CONFIG = 78
EXIT_HALTED = 75
EXIT_FENCED = 70  # an abort, a fence, a lost partition or an unavailable dependency: the supervisor restarts the worker
