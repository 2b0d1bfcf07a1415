"""Refusals of every channel, end to end: no personal decision, and denied events, until a later consent."""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from streams.consent.ledger.ledger import DAY_MS
from tests.house.standing import StandingHouse, wait_until
from tests.streams.consent.strings import tc_string

SITE, PAGE = "shop.example", "https://shop.example"
REGION_HEADER = "X-Headwater-Region"
GRANTED = {"cmp.analytics": "granted", "cmp.marketing": "granted", "cmp.personalization": "granted"}
DENIED = dict.fromkeys(GRANTED, "denied")
PERSONAL = ("ok", "stale")
SOON_S = 5


@pytest.fixture(scope="module")
def shop(house: StandingHouse) -> StandingHouse:
    """A house whose decisions are asked for by pages of the shop; the experiment is known and draws."""
    assert house.run("experiments", "put", "example").returncode == 0
    visitor = Visitor(house)
    wait_until(lambda: visitor.reason(visitor.phone) in PERSONAL, 60, "the experiment, its snapshot and the consent view")
    return house


class Visitor:
    """Two devices and an account of a new visitor."""

    def __init__(self, house: StandingHouse) -> None:
        self._house = house
        name = uuid.uuid4().hex
        self.phone, self.laptop, self.account = f"phone-{name}", f"laptop-{name}", f"account-{name}"

    def post(self, path: str, body: dict[str, Any], **headers: str) -> None:
        """Send a request to the collector."""
        headers["Authorization"] = f"Bearer {self._house.key}"
        answer = requests.post(f"{self._house.settings['collector_url']}{path}", json=body, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text

    def visit(self, device: str, consent: dict[str, str], region: str = "DE", **fields: Any) -> str:
        """Send an event of one device; return its unique name, because anonymised events keep no id."""
        name = f"viewed_{uuid.uuid4().hex}"
        event = {"event_name": name, "client_id": device, "consent": consent, "page_location": f"{PAGE}/", **fields}
        self.post("/v1/events", event, **{REGION_HEADER: region})
        return str(event["event_name"])

    def choose(self, device: str, consent: dict[str, str], **fields: Any) -> None:
        """Send a choice by webhook."""
        self.post("/v1/consent", {"client_id": device, "site": SITE, "consent": consent, **fields})

    def reason(self, device: str, consent: dict[str, str] | None = None, region: str = "DE") -> str:
        """Return the reason of a decision for one device; by default its page grants everything."""
        page_consent = GRANTED if consent is None else consent
        body: dict[str, Any] = {"experiment": "hero-banner", "visitor": device, "consent": page_consent}
        headers = {"Origin": PAGE, REGION_HEADER: region}
        answer = requests.post(f"{self._house.settings['decisions_url']}/v1/decide", json=body, headers=headers, timeout=10)
        return str(answer.json().get("reason", answer.text))

    def becomes(self, device: str, reasons: tuple[str, ...], consent: dict[str, str] | None = None, region: str = "DE") -> None:
        """Wait until decisions for a device have one of these reasons."""
        wait_until(
            lambda: self.reason(device, consent, region) in reasons, SOON_S, f"a decision that is {' or '.join(reasons)}"
        )

    def fate(self, event_name: str) -> tuple[str, str]:
        """Return (outcome, reasons) of the event with this name, once it is in ClickHouse."""
        rows = self._house.rows(f"event_name = '{event_name}'", "consent_outcome, consent_reasons")
        return str(rows[0][0]), str(rows[0][1])


@pytest.fixture
def visitor(shop: StandingHouse) -> Visitor:
    """A new visitor."""
    return Visitor(shop)


def test_a_refusal_by_webhook_needs_no_grant_before_it(visitor: Visitor) -> None:
    """Of somebody never seen: decisions are not personal within 5 s and events are denied, though the page says granted."""
    assert visitor.reason(visitor.phone) in PERSONAL
    visitor.choose(visitor.phone, DENIED)
    visitor.becomes(visitor.phone, ("no_consent",))
    outcome, reasons = visitor.fate(visitor.visit(visitor.phone, GRANTED))
    assert outcome == "anonymise"
    assert "OK_" not in reasons
    assert visitor.reason(visitor.laptop) in PERSONAL, "somebody else"


def test_a_refusal_on_one_device_counts_on_the_other(visitor: Visitor) -> None:
    """By an event that is a choice: what identity links has refused too, and so has the account."""
    for device in (visitor.phone, visitor.laptop):
        last = visitor.visit(device, GRANTED, user_id=visitor.account)
    assert visitor.fate(last)[0] == "pass"
    assert visitor.reason(visitor.laptop) in PERSONAL
    visitor.visit(visitor.phone, DENIED, event_name="consent_update", user_id=visitor.account)
    visitor.becomes(visitor.phone, ("no_consent",))
    visitor.becomes(visitor.laptop, ("no_consent",))
    for fields in ({}, {"user_id": visitor.account}):
        outcome, reasons = visitor.fate(visitor.visit(visitor.laptop, GRANTED, **fields))
        assert outcome == "anonymise"
        assert "OK_" not in reasons


def test_a_tc_string_of_today_refuses_at_once(visitor: Visitor) -> None:
    """Dated by its day alone, it holds from the moment it arrives, also for events and decisions that come without it."""
    today = int(time.time() * 1000) // DAY_MS * DAY_MS
    tc = {"gdpr_applies": "1", "tc_event_status": "tcloaded"}
    visitor.visit(visitor.phone, {**tc, "tc_string": tc_string("0" * 24, updated_ms=today, created=created(today))})
    visitor.becomes(visitor.phone, ("no_consent",))
    assert visitor.fate(visitor.visit(visitor.phone, GRANTED))[0] == "anonymise"


def created(time_ms: int) -> str:
    """The field of a TC string."""
    return f"{time_ms // 100:036b}"


def test_a_later_consent_lifts_a_refusal(visitor: Visitor) -> None:
    """A dated one; the same page saying granted without a time does not."""
    visitor.choose(visitor.phone, DENIED)
    visitor.becomes(visitor.phone, ("no_consent",))
    assert visitor.fate(visitor.visit(visitor.phone, GRANTED))[0] == "anonymise"
    visitor.choose(visitor.phone, GRANTED, chosen_ts=int(time.time() * 1000))
    visitor.becomes(visitor.phone, PERSONAL)
    assert visitor.fate(visitor.visit(visitor.phone, GRANTED))[0] == "pass"
    visitor.choose(visitor.phone, {}, kind="withdrawal")
    visitor.becomes(visitor.phone, ("no_consent",))


def test_a_refusal_holds_in_a_region_where_silence_grants(visitor: Visitor) -> None:
    """Refused in Germany, silent in the US: not personal and denied there too; a silent stranger is as the region says."""
    assert visitor.reason(visitor.phone, {}, "US") in PERSONAL
    assert visitor.fate(visitor.visit(visitor.laptop, {}, "US"))[0] == "pass"
    visitor.visit(visitor.phone, DENIED, "DE", event_name="consent_update")
    visitor.becomes(visitor.phone, ("no_consent",), {}, "US")
    outcome, reasons = visitor.fate(visitor.visit(visitor.phone, {}, "US"))
    assert outcome == "anonymise"
    assert "NO_SIGNAL" not in reasons
    assert visitor.reason(visitor.laptop, {}, "US") in PERSONAL


@pytest.mark.parametrize("refusal_first", [True, False])
def test_an_earlier_consent_lifts_nothing_whichever_comes_first(visitor: Visitor, refusal_first: bool) -> None:
    """Refused a minute ago by webhook, agreed to an hour ago by an event: refused, for events and decisions alike."""
    now = int(time.time() * 1000)
    agreed = {**GRANTED, "chosen_ts": str(now - 3_600_000)}
    steps: list[Callable[[], object]] = [
        lambda: visitor.choose(visitor.phone, DENIED, chosen_ts=now - 60_000),
        lambda: visitor.fate(visitor.visit(visitor.phone, agreed)),
    ]
    for step in steps if refusal_first else reversed(steps):
        step()
    visitor.becomes(visitor.phone, ("no_consent",))
    visitor.becomes(visitor.phone, ("no_consent",), agreed)
    assert visitor.fate(visitor.visit(visitor.phone, agreed))[0] == "anonymise"
    visitor.becomes(visitor.phone, PERSONAL, {**GRANTED, "chosen_ts": str(now)})
    assert visitor.fate(visitor.visit(visitor.phone, {**GRANTED, "chosen_ts": str(now)}))[0] == "pass"


@pytest.mark.parametrize("form", ["seconds", "iso", "unreadable"])
def test_times_of_choices_are_read_in_every_form(visitor: Visitor, form: str) -> None:
    """A refusal of two minutes ago is lifted by a consent of a minute ago; one of no readable time is of its arrival."""
    now = int(time.time())
    refused = {
        "seconds": str(now - 120),
        "iso": datetime.fromtimestamp(now - 120, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "unreadable": "the day before yesterday",
    }[form]
    visitor.fate(visitor.visit(visitor.phone, {**DENIED, "chosen_ts": refused}))
    visitor.becomes(visitor.phone, ("no_consent",))
    outcome, _ = visitor.fate(visitor.visit(visitor.phone, {**GRANTED, "chosen_ts": str(1000 * (now - 60))}))
    assert outcome == ("anonymise" if form == "unreadable" else "pass")


def test_a_login_after_a_withdrawal_withdraws_for_the_account(visitor: Visitor) -> None:
    """Withdrawn on the phone, then logged in there: the account's events on another device are denied too."""
    visitor.visit(visitor.laptop, GRANTED, user_id=visitor.account)
    visitor.choose(visitor.phone, {}, kind="withdrawal", purposes=["marketing"])
    visitor.becomes(visitor.phone, PERSONAL)  # of marketing alone
    wait_until(
        lambda: "marketing=WITHDRAWN" in visitor.fate(visitor.visit(visitor.phone, GRANTED, user_id=visitor.account))[1],
        SOON_S,
        "the withdrawal on the phone",
    )
    wait_until(
        lambda: "marketing=WITHDRAWN" in visitor.fate(visitor.visit(visitor.laptop, GRANTED, user_id=visitor.account))[1],
        2 * SOON_S,
        "the withdrawal on the laptop",
    )


@pytest.mark.parametrize(
    "choice",
    [
        {"consent": {"cmp.partners": "denied"}},
        {"consent": {"cmp.marketing": "hardly"}},
        {"consent": {"tc_string": tc_string(), "gdpr_applies": "1"}},
        {"kind": "withdrawal", "site": "elsewhere.example"},
    ],
)
def test_a_choice_that_is_not_understood_is_refused_and_kept(shop: StandingHouse, choice: dict[str, Any]) -> None:
    """The response is 400 and names the field, and the request is a dead letter in ClickHouse."""
    before = shop.query("SELECT count() FROM headwater.dead_letters")[0][0]
    headers = {"Authorization": f"Bearer {shop.key}"}
    body = {"client_id": uuid.uuid4().hex, **choice}
    answer = requests.post(f"{shop.settings['collector_url']}/v1/consent", json=body, headers=headers, timeout=10)
    assert answer.status_code == 400
    assert next(iter(choice.get("consent", {"site": ""}))).split(".")[-1].split("_")[0] in answer.json()["message"]
    wait_until(lambda: shop.query("SELECT count() FROM headwater.dead_letters")[0][0] > before, 30, "the dead letter")


def test_a_refusal_under_a_name_that_nothing_maps_denies_and_is_told(shop: StandingHouse, visitor: Visitor) -> None:
    """What nothing else speaks about, where silence would grant; the ops page's JSON and doctor name it."""
    outcome, reasons = visitor.fate(visitor.visit(visitor.phone, {"cmp.analytics": "1", "partner_sharing": "no"}, "US"))
    assert (outcome, reasons) == ("strip", "analytics=OK_CONSENT marketing=UNMAPPED personalization=UNMAPPED")
    assert visitor.reason(visitor.laptop, {"partner_sharing": "no"}, "US") == "no_consent"
    token = {"Authorization": f"Bearer {(shop.state / 'ops-token').read_text().strip()}"}

    def told() -> bool:
        answer = requests.get(f"{shop.settings['gauge_url']}/lag", headers=token, timeout=10).json()
        return any(signal["name"] == "partner_sharing" for signal in answer.get("unmapped_signals", ()))

    wait_until(told, 30, "the name on the ops page")
    assert "partner_sharing" in shop.run("doctor").stdout


def test_a_servers_own_place_is_not_the_visitors(shop: StandingHouse, visitor: Visitor) -> None:
    """Of a server's key the event says where the visitor is, whatever the header says; where it does not, silence denies."""
    creation = shop.run("keys", "create", "container", "--site", SITE, "--kind", "server")
    assert creation.returncode == 0, creation.stderr
    key = creation.stdout.strip()

    def outcome(**fields: Any) -> str:
        name = f"viewed_{uuid.uuid4().hex}"
        event = {"event_name": name, "client_id": visitor.phone, "page_location": f"{PAGE}/", **fields}
        headers = {"Authorization": f"Bearer {key}", REGION_HEADER: "US"}
        url = f"{shop.settings['collector_url']}/v1/events"
        wait_until(lambda: requests.post(url, json=event, headers=headers, timeout=10).status_code == 200, 10, "the key")
        return visitor.fate(name)[0]

    assert outcome() == "anonymise"
    assert outcome(event_location={"country": "DE"}) == "anonymise"
    assert outcome(event_location={"country": "US"}) == "pass"
    assert outcome(country="Deutschland") == "anonymise"


def test_without_redis_nothing_is_personal_until_the_view_is_whole_again(shop: StandingHouse, visitor: Visitor) -> None:
    """Killed, and started again: what was refused before is refused after, and nobody's decision is personal meanwhile."""
    visitor.choose(visitor.phone, DENIED)
    visitor.becomes(visitor.phone, ("no_consent",))
    shop.kill("redis")
    deadline = time.monotonic() + 60
    while visitor.reason(visitor.laptop) not in PERSONAL:
        assert visitor.reason(visitor.phone) == "no_consent"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert visitor.reason(visitor.phone) == "no_consent"
