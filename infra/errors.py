"""An exception per meaning; only app files and the runtime catch them."""


class ConfigError(Exception):
    """What the user set cannot work; the message names the place and what to do. Exit code 78."""


class Retryable(Exception):
    """The world is at fault (Redis, Kafka, ClickHouse away): nothing is committed, back off and try the same again.

    `service` names what is away, for the metrics, where the code that raises knows it.
    """

    def __init__(self, text: str, service: str = "") -> None:
        super().__init__(text)
        self.service = service


class Halted(Exception):
    """Going on would do harm (too many dead letters, an impossible offset): stop and wait for a person. Exit code 75."""


def unreachable_message(error: Retryable) -> str:
    """What to tell a person whose command found nobody."""
    return f"{error}. Is the house up (`headwater up`), and does HEADWATER_STATE_DIR name it?"


EXIT_CONFIG = 78
EXIT_HALTED = 75
EXIT_FENCED = 70  # an abort, a fence, a lost partition, or a world that is away: the supervisor starts the worker again
