"""The decisions API over real HTTP, with a real broker and a real Redis."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import ClientSession, web

from consumers.decisions import server
from consumers.decisions.app import ServiceContext
from consumers.decisions.rules import STALE_MS
from infra.ops import topics as topics_app
from infra.ops.embedded.servers.redis import EmbeddedRedis
from infra.secrets import Secret
from infra.settings import Settings, load_settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.bandit.commands.experiments import EXAMPLE, publish_experiment
from streams.bandit.experiment import Experiment, parse
from streams.bandit.snapshots.snapshot import Snapshot, next_snapshot
from streams.bandit.snapshots.store import RedisSnapshotStore, pointer_key
from streams.bandit.token import verify
from streams.collector.write_keys import create_key
from streams.consent.app import partitioner
from streams.consent.ledger.store import state_key
from streams.identity.nodes import NodeKeys, node
from streams.runtime.follow import read_partition
from tests.consumers.decisions.views import PARTITIONS, open_views

HERO = parse(EXAMPLE.read_bytes())
PATH = "/v1/decide"
SECRET = Secret("s" * 32)
KEY = SECRET.derive("decision-token")


CONSENT = {"cmp.personalization": "granted"}
SITE = "shop.example"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may stop."""
    with EmbeddedRedis(tmp_path / "redis") as own:
        yield own


@pytest.fixture
def settings(kafka: str, own_redis: EmbeddedRedis, tmp_path: Path) -> Settings:
    """An installation on the shared broker."""
    origins = ["https://shop.example"]
    installation = load_settings(
        kafka=kafka, redis=own_redis.url, state_dir=tmp_path, secret="s" * 32, partitions=PARTITIONS, decision_origins=origins,
        region_header="X-Place",
    )  # fmt: skip
    topics_app.apply(installation)
    create_key(installation.write_keys_file, "shop", site=SITE)
    open_views(own_redis.url)
    return installation


def published(settings: Settings, experiment: Experiment, **changes: Any) -> Snapshot:
    """Publish an experiment and put a snapshot of it into Redis."""
    publish_experiment(settings, experiment)
    first = next_snapshot(experiment, {}, None, time.time_ns() // 1_000_000)
    assert first is not None
    snapshot = Snapshot(**{**first.__dict__, **changes})
    value = encode(Registry(settings.contracts).latest("bandit.snapshots"), snapshot.record())
    with redis.Redis.from_url(settings.redis) as client:
        RedisSnapshotStore(client).publish(experiment.key, snapshot.version, value)
    return snapshot


Ask = Callable[..., Awaitable[tuple[int, dict[str, Any]]]]


class Running:
    """A serving process context and a client of it."""

    def __init__(self, context: ServiceContext, session: ClientSession, port: int) -> None:
        self.context = context
        self.session = session
        self.url = f"http://127.0.0.1:{port}"

    async def ask(self, visitor: str = "v1", **changes: Any) -> tuple[int, dict[str, Any]]:
        """Send `POST /v1/decide` and return status and answer."""
        headers = changes.pop("headers", None)
        body = {"experiment": HERO.key, "visitor": visitor, "consent": CONSENT, **changes}
        async with self.session.post(self.url + PATH, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 20, **changes: Any) -> dict[str, Any]:
        """Ask until an answer meets the condition."""
        deadline = time.monotonic() + seconds
        while True:
            status, answer = await self.ask(**changes)
            if status == 200 and condition(answer):
                return answer
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Serve on a free port."""
    context = ServiceContext(settings).open()
    tasks = context.start()
    runner = web.AppRunner(context.build_api().app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with ClientSession() as session:
            yield Running(context, session, runner.addresses[0][1])
    finally:
        await runner.cleanup()
        await context.close(tasks)


def logged(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return decision id -> record of bandit.decisions."""
    registry = Registry(settings.contracts)
    decisions = {}
    for partition in range(settings.partitions):
        for records in read_partition(settings, "bandit.decisions", partition):
            for _, value in records:
                record = decode(registry, value or b"")[1]
                decisions[record["decision_id"]] = record
    return decisions


def test_answers_follow_the_published_vector_and_are_logged_as_given(settings: Settings) -> None:
    """Over 2,000 visitors control and arms have their shares, propensities are the published ones, and the log agrees."""
    snapshot = published(settings, HERO, probabilities=(0.2, 0.7, 0.1))

    async def walk() -> dict[str, tuple[str, dict[str, Any]]]:
        async with running(settings) as served:
            await served.until(lambda answer: answer["reason"] == "ok")
            answers = {}
            for n in range(2_000):
                _, answer = await served.ask(f"v{n}")
                answers[answer["decision_id"]] = (f"v{n}", answer)
            for visitor, answer in list(answers.values())[:100]:
                _, again = await served.ask(visitor)
                assert (again["arm"], again["group"]) == (answer["arm"], answer["group"])
            return answers

    answers = asyncio.run(walk())
    groups = Counter(answer["group"] for _, answer in answers.values())
    assert 150 < groups["control"] < 250
    assert groups["control"] + groups["bandit"] == 2_000
    bandit = [answer for _, answer in answers.values() if answer["group"] == "bandit"]
    assert all(answer["propensity"] == pytest.approx(snapshot.weights()[answer["arm"]]) for answer in bandit)
    shares = Counter(answer["arm"] for answer in bandit)
    assert abs(shares["bold"] / len(bandit) - 0.7) < 0.04
    records = logged(settings)
    for decision_id, (visitor, answer) in answers.items():
        record = records[decision_id]
        assert record["visitor"] == node(NodeKeys.derive(SECRET), "cookie", visitor)
        assert all(record[name] == answer[name] for name in ("arm", "group", "propensity", "reason", "config_version"))
        ref = verify(KEY, answer["token"])
        assert ref is not None
        assert (ref.decision_id, ref.arm, ref.propensity) == (decision_id, answer["arm"], answer["propensity"])
        assert answer["is_control"] == (answer["group"] == "control")


def test_without_consent_the_default_arm_is_served_and_no_visitor_is_logged(settings: Settings) -> None:
    """Silence, denial, GPC and unreadable signals give no token, no group and no pseudonym in the log."""
    published(settings, HERO)

    async def walk() -> list[dict[str, Any]]:
        async with running(settings) as served:
            await served.until(lambda answer: answer["reason"] == "ok")
            denied: list[dict[str, str]] = [
                {}, {"gcs": "G111"}, {"cmp.personalization": "denied"}, {"cmp.personalization": "yes please"},
                {**CONSENT, "gpc": "1"}, {**CONSENT, "tc_string": "null"},
            ]  # fmt: skip
            answers = [(await served.ask(consent=consent))[1] for consent in denied]
            return [*answers, *[(await served.ask(headers={"Sec-GPC": text}))[1] for text in ("1", "true", "?1")]]

    answers = asyncio.run(walk())
    assert {(answer["arm"], answer["group"], answer["reason"], answer["token"]) for answer in answers} == {
        ("calm", "none", "no_consent", "")
    }
    records = logged(settings)
    assert {records[answer["decision_id"]]["visitor"] for answer in answers} == {""}


def node_of(visitor: str) -> str:
    """Return the visitor's pseudonym."""
    return str(node(NodeKeys.derive(SECRET), "cookie", visitor))


def test_a_remembered_refusal_is_no_consent(settings: Settings) -> None:
    """A stored refusal of site and regime beats the page's grant; a later choice lifts it."""
    published(settings, HERO)
    view, now = open_views(settings.redis), time.time_ns() // 1_000_000
    partition_of = partitioner(settings)

    def remember(visitor: str, site: str, **times: int) -> None:
        states = {
            state_key(regulation, site, node_of(visitor)): {f"personalization.{name}": at for name, at in times.items()}
            for regulation in ("opt-in", "opt-out")
        }
        view.write(partition_of(node_of(visitor).encode()), states, now)

    async def walk() -> None:
        async with running(settings) as served:
            await served.until(lambda answer: answer["reason"] == "ok")
            remember("v1", SITE, denied=now)
            remember("v2", "elsewhere.example", withdrawn=now)
            page, silent = {"Origin": "https://shop.example"}, {"Origin": "https://shop.example", "X-Place": "US"}
            reasons = [
                (await served.ask(visitor, headers=headers, **changes))[1]["reason"]
                for visitor, headers, changes in (
                    ("v1", page, {}), ("v1", None, {}), ("v1", silent, {"consent": {}}), ("v2", page, {}), ("v3", page, {}),
                    ("v3", silent, {"consent": {}}), ("v3", {"X-Place": "US"}, {"consent": {}}),
                )
            ]  # fmt: skip
            assert reasons == ["no_consent"] * 3 + ["ok"] * 4
            _, refused = await served.ask("v1", headers=page)
            assert (refused["arm"], refused["group"], refused["token"]) == ("calm", "none", "")
            _, lifted = await served.ask("v1", consent={**CONSENT, "chosen_ts": str(now + 1)})
            assert lifted["reason"] == "ok"
            records = logged(settings)
            assert records[refused["decision_id"]]["visitor"] == ""
            remember("v1", SITE, granted=now + 2)
            assert (await served.ask("v1", headers=page))[1]["reason"] == "ok"

    asyncio.run(walk())


def test_an_outage_of_redis(settings: Settings, own_redis: EmbeddedRedis) -> None:
    """Without Redis default arms are served and the metric is 1; once the view is complete again the groups continue."""
    published(settings, HERO)

    async def walk() -> None:
        async with running(settings) as served:
            first = await served.until(lambda answer: answer["reason"] == "ok")
            own_redis.stop()
            _, second = await served.ask()
            assert (second["arm"], second["group"], second["reason"], second["token"]) == ("calm", "none", "no_consent", "")
            async with served.session.get(served.url + "/metrics") as response:
                assert 'headwater_waiting{service="redis",stage="decisions"} 1.0' in await response.text()
            await asyncio.get_running_loop().run_in_executor(None, own_redis.start)
            open_views(own_redis.url)
            third = await served.until(lambda answer: answer["reason"] == "ok")
            assert (third["arm"], third["group"]) == (first["arm"], first["group"])

    asyncio.run(walk())


def test_an_old_snapshot_is_stale_and_none_serves_the_default(settings: Settings, own_redis: EmbeddedRedis) -> None:
    """The last snapshot serves, with reason `stale` once it is old; a process without one serves the default arm."""
    published(settings, HERO)

    async def walk() -> None:
        async with running(settings) as served:
            first = await served.until(lambda answer: answer["reason"] == "ok")
            snapshots = served.context.snapshots._snapshots
            snapshots[HERO.key] = replace(snapshots[HERO.key], published_ts=snapshots[HERO.key].published_ts - STALE_MS)
            _, stale = await served.ask()
            assert (stale["arm"], stale["group"], stale["reason"]) == (first["arm"], first["group"], "stale")
        with redis.Redis.from_url(own_redis.url) as client:
            client.delete(pointer_key(HERO.key))
        async with running(settings) as served:
            fallback = await served.until(lambda answer: answer["reason"] != "no_consent")
            assert (fallback["arm"], fallback["group"], fallback["reason"]) == ("calm", "none", "fallback")

    asyncio.run(walk())


def test_a_full_log_serves_the_default_and_is_not_learned_from(settings: Settings) -> None:
    """When decisions cannot be queued any more, answers are the default arm without a token."""
    published(settings, HERO)

    class Full:
        def produce(self, *_args: Any, **_options: Any) -> None:
            raise BufferError

    async def walk() -> None:
        async with running(settings) as served:
            await served.until(lambda answer: answer["reason"] == "ok")
            working, served.context.log._producer = served.context.log._producer, Full()
            _, answer = await served.ask()
            served.context.log._producer = working
            assert (answer["arm"], answer["group"], answer["reason"], answer["token"]) == ("calm", "none", "fallback", "")

    asyncio.run(walk())


def is_of(experiment: Experiment, answer: dict[str, Any]) -> bool:
    """Return whether the answer is of this version of the experiment."""
    return bool(answer["config_version"] == experiment.version)


def test_the_kill_switch_works_within_two_seconds(settings: Settings) -> None:
    """`off` and `control` reach a running process within two seconds of being published."""
    published(settings, HERO)

    async def walk() -> None:
        async with running(settings) as served:
            await served.until(lambda answer: answer["reason"] == "ok")
            for mode in ("off", "control"):
                experiment = HERO.model_copy(update={"mode": mode})
                await asyncio.get_running_loop().run_in_executor(None, publish_experiment, settings, experiment)
                answer = await served.until(partial(is_of, experiment), seconds=2)
                assert (answer["reason"], answer["token"]) == ("killed", "")

    asyncio.run(walk())
    publish_experiment(settings, HERO)


def test_refusals_are_documented_answers(settings: Settings) -> None:
    """Each error has its status and a JSON body; only listed origins are answered, with CORS headers."""
    published(settings, HERO)

    async def walk() -> None:
        async with running(settings) as served:
            await served.until(lambda answer: answer["reason"] == "ok")
            post = served.session.post
            for body, status in ((b"{", 400), (b"x" * 20_000, 413), (b"\xff", 400), (b'{"experiment":"nobody"}', 404)):
                async with post(served.url + PATH, data=body) as response:
                    assert (response.status, list(await response.json())) == (status, ["error"])
            for encoding in ("gzip", "deflate"):
                async with post(served.url + PATH, data=b"neither", headers={"Content-Encoding": encoding}) as response:
                    assert (response.status, list(await response.json())) == (400, ["error"])
            assert (await served.ask(headers={"Origin": "https://evil.example"}))[0] == 403
            async with post(
                served.url + PATH, json={"experiment": HERO.key}, headers={"Origin": "https://shop.example"}
            ) as response:
                assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
                assert (await response.json())["reason"] == "no_consent"
            async with served.session.options(served.url + PATH, headers={"Origin": "https://shop.example"}) as response:
                assert (response.status, response.headers["Access-Control-Allow-Methods"]) == (204, "POST")
            async with served.session.get(served.url + PATH) as response:
                assert response.status == 405
            for path, text in (("/widget.js", "150"), ("/metrics", "headwater_decisions_total"), ("/health/ready", "true")):
                async with served.session.get(served.url + path) as response:
                    assert response.status == 200
                    assert text in await response.text()

    asyncio.run(walk())


def test_behind_a_trusted_proxy_the_limit_is_by_visitor(settings: Settings) -> None:
    """The proxy's entry of X-Forwarded-For is the address, not what the visitor wrote before it."""
    installation = settings.model_copy(update={"trusted_proxies": 1, "decision_rate": 1.0})

    async def walk() -> None:
        async with running(installation) as served:
            await served.until(lambda answer: "reason" in answer)

            async def status(forwarded: str) -> int:
                return (await served.ask(headers={"X-Forwarded-For": forwarded}))[0]

            assert {await status(f"198.51.100.{number}:4711") for number in range(50)} == {200}
            assert 429 in [await status(f"192.0.2.{number}, 198.51.100.200") for number in range(10)]

    asyncio.run(walk())


WIDGET = """
require(process.argv[1]);
headwater.decide({experiment: "hero-banner", visitor: "v1", fallback: "static", endpoint: process.argv[2],
  consent: {"cmp.personalization": "granted"}, timeout_ms: Number(process.argv[3]) || undefined,
}).then((decision) => console.log(JSON.stringify(decision)));
"""


async def in_widget(endpoint: str, timeout_ms: int = 0) -> dict[str, Any]:
    """Return the widget's result, in Node, which has fetch and AbortController as browsers do."""
    node_js = shutil.which("node")
    assert node_js is not None
    process = await asyncio.create_subprocess_exec(
        node_js, "-e", WIDGET, str(server.WIDGET), endpoint, str(timeout_ms), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    decision: dict[str, Any] = json.loads(out)
    return decision


@pytest.mark.skipif(shutil.which("node") is None, reason="the widget's own language is not on this machine")
def test_the_widget_always_resolves(settings: Settings) -> None:
    """It resolves to the server's answer, or after an error or a timeout to the static default with an empty token."""
    published(settings, HERO)

    async def walk() -> None:
        async with running(settings) as served:
            expected = await served.until(lambda answer: answer["reason"] == "ok")
            decided = await in_widget(served.url, timeout_ms=10_000)
            assert (decided["arm"], decided["group"]) == (expected["arm"], expected["group"])
            assert verify(KEY, decided["token"]) is not None
        silent = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(60), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        for endpoint, reason in ((f"http://127.0.0.1:{port}", "timeout"), ("http://127.0.0.1:1", "error")):
            given_up = await in_widget(endpoint, 0 if reason == "timeout" else 10_000)
            assert (given_up["arm"], given_up["token"], given_up["reason"]) == ("static", "", reason)
        silent.close()

    asyncio.run(walk())
