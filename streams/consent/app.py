"""Opens what the consent stage needs: its policy file and its key."""

from pathlib import Path

from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry
from streams.consent.policy import PACKAGED, Policy, load_policy
from streams.consent.stage import ConsentStage


class PolicyFile:
    """Reads the policy again when its file has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = self._file.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_ino, found.st_size

    def changed(self) -> Policy | None:
        """The policy if the file is another one than last time; ConfigError, once, if that one is broken or gone."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        return load_policy(self._file)


def build(settings: Settings, metrics: Metrics) -> ConsentStage:
    """The stage of one worker. ConfigError for a policy that does not load: nothing passes without one."""
    file = PolicyFile(settings.policy or PACKAGED)
    policy = load_policy(settings.policy or PACKAGED)
    key = settings.master.derive("consent/anonymous/v1")
    return ConsentStage(Registry(settings.contracts), policy, key, metrics, file.changed)
