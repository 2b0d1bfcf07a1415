"""The gauge's HTTP API over real sockets: tokens, headers and answers."""

import asyncio
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser

import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import TestServer

from consumers.gauge.app import check_exposure
from consumers.gauge.lag.reading import GaugePartition, GroupReading, LagReading, PartitionEnds, PartitionReading
from consumers.gauge.lag.rules import LagState
from consumers.gauge.page.page import LEGEND, Page, duration, headline, rate, with_row_checks
from consumers.gauge.recent import RecentActivity, SnapshotSummary
from consumers.gauge.row_checks import RowCheck
from consumers.gauge.server import COOKIE, HEADERS, REQUESTS_AT_ONCE, REQUESTS_PER_S, Dashboard, GaugeApi
from infra.errors import ConfigError
from infra.http.rate_limit import EVERYONE, RateLimit

NOW = 1_800_000_000.0
TOKEN = "a token of sixteen"

Visit = Callable[[ClientSession], Awaitable[None]]


def partition(state: LagState, topic: str = "events.raw", lag: int = 1_204, age: float | None = 12.0) -> PartitionReading:
    """Return one partition in a state."""
    source = "table" if lag else "none"
    return PartitionReading(topic, 0, state, "because", 40.0, NOW - 60, 5, 9_000, 9_000 - lag, lag, age, source, 10.0, 9.0)


def reading(*states: LagState) -> LagReading:
    """Return a reading with a group per state."""
    names = ("headwater.consent", "headwater.identity", "headwater.warehouse", "headwater.bandit")
    groups = tuple(GroupReading(name, 1, (partition(state),)) for name, state in zip(names, states, strict=False))
    return LagReading(NOW, groups, {GaugePartition("events.raw", 0): PartitionEnds(5, 9_000, 9_000)})


def visit(board: Dashboard, token: str | None, visitor: Visit) -> None:
    """Serve on a free port while the visitor sends requests."""

    async def run() -> None:
        application: web.Application = GaugeApi(board, Page(10, 30), token, lambda: NOW).app()
        async with (
            TestServer(application) as server,
            ClientSession(server.make_url("/"), cookie_jar=CookieJar(unsafe=True)) as s,
        ):
            await visitor(s)

    asyncio.run(run())


def test_without_a_token_loopback_is_answered_and_rebound_names_are_not() -> None:
    """A web page whose name resolves to 127.0.0.1 (DNS rebinding) is refused."""

    async def visitor(session: ClientSession) -> None:
        for path in ("/", "/lag", "/metrics", "/health/live", "/health/ready"):
            async with session.get(path) as answer:
                assert answer.status == 200, path
        for name in ("evil.example:8082", "["):
            async with session.get("/lag", headers={"Host": name}) as answer:
                assert answer.status == 421

    visit(Dashboard(30, reading(LagState.OK)), None, visitor)


def test_with_a_token_only_health_is_open() -> None:
    """A missing or wrong token is answered 401 with a hint; a Bearer header is accepted."""

    async def visitor(session: ClientSession) -> None:
        for path in ("/lag", "/metrics"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic x"},
                {"Cookie": f"{COOKIE}={TOKEN}"},
            ):
                async with session.get(path, headers=headers) as answer:
                    assert answer.status == 401
                    assert "lag" not in (await answer.text())
            async with session.get(path, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
                assert answer.status == 200
        async with session.get("/") as answer:
            assert answer.status == 401
            assert "Token" in await answer.text()
        async with session.get("/health/ready") as answer:
            assert answer.status == 200

    visit(Dashboard(30, reading(LagState.OK)), TOKEN, visitor)


def test_a_token_in_the_address_becomes_a_cookie_at_once() -> None:
    """The cookie is HttpOnly, strict, does not contain the token and opens the page; the URL loses the token."""

    async def visitor(session: ClientSession) -> None:
        async with session.get("/", params={"token": TOKEN}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        async with session.get("/") as answer:
            assert answer.status == 200

    visit(Dashboard(30, reading(LagState.OK)), TOKEN, visitor)


def test_every_answer_carries_the_security_headers() -> None:
    """Errors and redirects have them too."""

    async def visitor(session: ClientSession) -> None:
        for path in ("/", "/lag", "/nowhere", "/static/gauge.css", "/static/../app.py", f"/?token={TOKEN}"):
            async with session.get(path, allow_redirects=False) as answer:
                assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"], path
                assert answer.headers["X-Content-Type-Options"] == "nosniff"

    visit(Dashboard(30, reading(LagState.OK)), TOKEN, visitor)


def test_a_loop_of_requests_is_slowed_down() -> None:
    """200 requests at once are answered, then 50 a second; others get 429 with Retry-After."""
    limit = RateLimit(REQUESTS_PER_S, REQUESTS_AT_ONCE)
    assert sum(limit.allow(EVERYONE, NOW) for _ in range(500)) == 200
    assert sum(limit.allow(EVERYONE, NOW + 1) for _ in range(500)) == 50

    async def visitor(session: ClientSession) -> None:
        answers = []
        for _ in range(201):
            async with session.get("/health/live") as answer:
                answers.append((answer.status, answer.headers.get("Retry-After")))
        assert answers.count((200, None)) == 200
        assert answers[-1] == (429, "1")

    visit(Dashboard(30), None, visitor)


def test_nothing_can_be_changed() -> None:
    """Other methods than GET are refused."""

    async def visitor(session: ClientSession) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with session.request(method, "/lag") as answer:
                assert answer.status == 405

    visit(Dashboard(30, reading(LagState.OK)), None, visitor)


def test_before_the_first_answer_of_kafka() -> None:
    """It is live and not ready, /lag answers 503 with a reason, and the page works."""

    async def visitor(session: ClientSession) -> None:
        for path, status in (("/health/live", 200), ("/health/ready", 503), ("/lag", 503), ("/metrics", 200), ("/", 200)):
            async with session.get(path) as answer:
                assert answer.status == status, path
        async with session.get("/") as answer:
            assert "Kafka has not answered yet" in await answer.text()

    visit(Dashboard(30), None, visitor)


def test_metrics_have_the_names_of_kafka_lag_exporter() -> None:
    """The names are those that existing dashboards use."""

    async def visitor(session: ClientSession) -> None:
        async with session.get("/metrics") as answer:
            text = await answer.text()
        labels = 'group="headwater.consent",partition="0",topic="events.raw"'
        assert f"kafka_consumergroup_group_lag{{{labels}}} 1204.0" in text
        assert f"kafka_consumergroup_group_lag_seconds{{{labels}}} 12.0" in text
        assert 'kafka_consumergroup_group_max_lag_seconds{group="headwater.consent"} 12.0' in text
        stopped = labels.replace(",topic", ',state="STOPPED",topic')
        assert f"headwater_lag_state{{{stopped}}} 1.0" in text

    visit(Dashboard(30, reading(LagState.STOPPED)), None, visitor)


@pytest.mark.parametrize(
    ("lag", "late_s", "level", "words"),
    [
        (reading(LagState.OK, LagState.OK), 0, "ok", "All is well: all 2 groups are within the limit"),
        (reading(LagState.STOPPED, LagState.OK), 0, "bad", "1 problem: headwater.consent is STOPPED on events.raw since"),
        (
            reading(LagState.OK, LagState.WARN, LagState.DATA_LOSS_RISK),
            0,
            "bad",
            "2 problems: headwater.warehouse is DATA LOSS RISK",
        ),
        (reading(LagState.HUNG_TXN), 0, "warn", "HUNG TXN"),
        (reading(LagState.CATCHING_UP, LagState.OK), 0, "busy", "done in about 40 s"),
        (reading(), 0, "unknown", "no worker has started"),
        (reading(LagState.OK), 120, "unknown", "Kafka has not answered for 2 min"),
        (None, 0, "unknown", "nothing is known"),
    ],
)
def test_the_sentence_on_top(lag: LagReading | None, late_s: float, level: str, words: str) -> None:
    """The worst problem comes first, and a missing reading is never reported as well."""
    sentence = headline(lag, NOW + late_s, 30)
    assert (sentence.level, words in sentence.text) == (level, True), sentence


class PageContent(HTMLParser):
    """The inline code and the ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect inline code and ids of a tag."""
        attributes = dict(attrs)
        self.inline += [name for name in attributes if name == "style" or name.startswith("on")]
        self.inline += ["script"] if tag == "script" and "src" not in attributes else []
        self.inline += ["style"] if tag == "style" else []
        if attributes.get("id"):
            self.ids.append(attributes["id"] or "")


def test_row_checks_are_shown_and_wrong_rows_are_a_problem() -> None:
    """They are on the page with their repair, in the headline and in the JSON; without ClickHouse they are unknown."""
    checks = (
        RowCheck("events.resolved", NOW - 90, (("missing", 1_234), ("duplicates", 2)), 0),
        RowCheck("stream.counts", NOW - 4_000, (), 77),
    )

    async def visitor(session: ClientSession) -> None:
        page = await (await session.get("/")).text()
        assert "rows of events.resolved in ClickHouse: 1,234 missing, 2 duplicates." in page
        assert "headwater warehouse replay" in page
        assert "77 offsets gone before they were compared" in page
        assert (await (await session.get("/lag")).json())["row_checks"] == [
            {"topic": "events.resolved", "verified_at": round((NOW - 90) * 1000), "missing": 1_234, "duplicates": 2,
             "unexpected": 0, "different": 0, "unverifiable": 0},
            {"topic": "stream.counts", "verified_at": round((NOW - 4_000) * 1000), "missing": 0, "duplicates": 0,
             "unexpected": 0, "different": 0, "unverifiable": 77},
        ]  # fmt: skip

    async def without(session: ClientSession) -> None:
        assert "ClickHouse does not answer" in await (await session.get("/")).text()
        assert (await (await session.get("/lag")).json())["row_checks"] is None

    visit(Dashboard(30, reading(LagState.OK), row_checks=checks), None, visitor)
    visit(Dashboard(30, reading(LagState.OK)), None, without)
    assert with_row_checks(headline(reading(LagState.OK), NOW, 30), checks[1:]).level == "ok"
    assert with_row_checks(headline(reading(LagState.OK), NOW, 30), checks).level == "bad"


def test_the_page_needs_no_inline_code_and_every_state_has_words() -> None:
    """The content security policy forbids inline script and style; states have words besides their colour."""
    for state in LagState:
        html = Page(10, 30).render(reading(state), RecentActivity(), NOW)
        parsed = PageContent(html)
        assert parsed.inline == []
        assert len(parsed.ids) == len(set(parsed.ids))
        assert state.value.replace("_", " ") in html
    assert set(LEGEND) == set(LagState)
    assert len({shape for shape, _ in LEGEND.values()}) == 4


def test_untrusted_input_is_escaped() -> None:
    """Event names, sources, reasons and arms are untrusted input."""
    nasty = "<script>alert(1)</script>"
    recent = RecentActivity(
        dead=((("consent", nasty, nasty), 3),),
        volumes=((("consent", nasty), 5, (0,) * 59 + (5,)),),
        snapshots=(SnapshotSummary(nasty, 0, ((nasty, 1.0, None),)),),
        complete=True,
    )
    html = Page(10, 30).render(reading(LagState.OK), recent, NOW)
    assert nasty not in html
    assert html.count("&lt;script&gt;") >= 5


def test_degraded_identity_is_shown() -> None:
    """The page shows the number of unresolved records only while there are any."""
    page = Page(10, 30)
    assert "1,234 records" in page.render(reading(LagState.OK), RecentActivity(deferred=1_234, complete=True), NOW)
    assert "Identity is degraded" not in page.render(reading(LagState.OK), RecentActivity(complete=True), NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_read_like_speech(seconds: float | None, text: str) -> None:
    """A duration has at most two units."""
    assert duration(seconds) == text


def test_rates_are_short() -> None:
    """A rate has at most one decimal place."""
    assert [rate(r) for r in (0, 0.2, 9.96, 1_234.5)] == ["0/s", "0.2/s", "10/s", "1,234/s"]


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", None), ("gauge.example", None), ("127.0.0.1", "short")])
def test_an_open_page_is_refused(host: str, token: str | None) -> None:
    """Other addresses than loopback need a token, and tokens have a minimum length."""
    with pytest.raises(ConfigError, match="HEADWATER_OPS_TOKEN"):
        check_exposure(host, token)


@pytest.mark.parametrize(("host", "token"), [("127.0.0.1", None), ("localhost", None), ("::1", None), ("0.0.0.0", TOKEN)])
def test_a_guarded_page_is_served(host: str, token: str | None) -> None:
    """Loopback addresses, and others with a token, are served."""
    check_exposure(host, token)
