"""The outbox's own time limits, because librdkafka's do not always hold."""

import asyncio
import time
from pathlib import Path

import pytest

from infra.errors import EXIT_FENCED
from infra.settings import Settings
from streams.runtime import outbox
from streams.runtime.outbox import Outbox


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a broker that does not answer."""
    return Settings(kafka="127.0.0.1:1", state_dir=tmp_path, secret="for tests only, forty characters long...")


def test_a_call_that_does_not_keep_its_limit_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is abandoned a little after its limit; one within it is waited for."""
    monkeypatch.setattr(outbox, "GRACE_S", 0.2)
    box, calls = Outbox(settings, "headwater.t", dict), list[float]()

    def slow(much_longer: float, limit: float) -> None:
        time.sleep(much_longer)
        calls.append(limit)

    with pytest.raises(TimeoutError):
        asyncio.run(box._call(0.1, slow, 1.0))
    asyncio.run(box._call(2.0, slow, 0.1))
    assert calls == [0.1, 2.0], "the first call went on in its thread"


def test_a_commit_that_nobody_answers_ends_the_worker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unanswered commit ends the worker like a refused one: the next start aborts the transaction."""
    ends = list[int]()

    class Ended(Exception):
        pass

    def end(code: int) -> None:
        ends.append(code)
        raise Ended

    async def unanswered(*_args: object) -> None:
        raise TimeoutError

    box = Outbox(settings, "headwater.t", dict)
    box._next = {("t", 0): 7}
    monkeypatch.setattr(box, "_call", unanswered)
    monkeypatch.setattr("streams.runtime.outbox.os._exit", end)
    with pytest.raises(Ended):
        asyncio.run(box.commit())
    assert ends == [EXIT_FENCED]
