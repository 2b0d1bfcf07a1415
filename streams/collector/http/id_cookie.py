"""The first-party id cookie: read from a request, set or deleted by its answer, as the request's consent signals decide.

A browser gets it as `Set-Cookie`. A tag-manager container, which speaks for the browser, names the value in the header `RELAY`
and gets the new one in the same header of the answer, so that it can set the cookie on its own host.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http.cookies import Morsel
from typing import Any, NamedTuple

from aiohttp import web

from infra.errors import ConfigError
from infra.http.cors import AllowedOrigins
from infra.parsing.address import parse_address
from streams.collector.event import InvalidItem, Item, ProtocolEvent
from streams.collector.intake import ChoiceParser, ItemParser
from streams.collector.normalise import RequestContext, choose_region, signals_of
from streams.collector.signals.storage_consent import StorageConsent, StorageRules
from streams.collector.write_keys import KeyKind

DAY_S = 86_400
DEFAULT_DAYS, MAX_DAYS = 395, 400
"""Browsers cut a longer life to 400 days (RFC 6265bis, section 5.5)."""
RELAY = "X-Headwater-Id-Cookie"
"""A container's request: the cookie's value, empty where the browser has none. Its answer: the value to set, empty = delete."""
RELAY_AGE = "X-Headwater-Id-Cookie-Max-Age"
"""Seconds, beside the value to set."""

_VALUE = re.compile(r"hw1\.[A-Za-z0-9_-]{22}")
"""The version of the format, and 128 random bits in base64url."""
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")


@dataclass(frozen=True)
class IdCookieSettings:
    """What the cookie is called and how long it lives. ConfigError for what no browser accepts."""

    name: str
    domain: str = ""
    """Empty: the cookie belongs to the collector's host alone."""
    days: int = DEFAULT_DAYS

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"--id-cookie must be a cookie's name, of letters, digits, _ and -: {self.name!r:.200}")
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            raise ConfigError(f"--id-cookie-domain must be a domain such as shop.example, in lower case: {self.domain!r:.200}")
        if self.domain and self.name.startswith("__Host-"):
            raise ConfigError("--id-cookie-domain: browsers accept a name that starts with __Host- only without a domain")
        if not 1 <= self.days <= MAX_DAYS:
            raise ConfigError(f"--id-cookie-days must lie between 1 and {MAX_DAYS}: {self.days}")


class EventBatch(NamedTuple):
    """Items of a request that share a parser and a context."""

    items: list[Any]
    parse: ItemParser
    context: RequestContext


class IdCookies:
    """The id cookies of one process."""

    def __init__(self, settings: IdCookieSettings, rules: StorageRules, origins: AllowedOrigins) -> None:
        self._settings = settings
        self._rules = rules
        self._origins = origins

    def open(self, request: web.Request, kind: KeyKind) -> "VisitorCookie | None":
        """Return the cookie of a request; None where its sender cannot have one: servers, and pages of other sites."""
        if kind is KeyKind.SERVER and RELAY in request.headers:
            return VisitorCookie(self._rules, request.headers[RELAY], RelayedAnswer(self._settings.days))
        if kind is not KeyKind.BROWSER:
            return None
        is_secure = not is_plain_loopback(request)
        same_site = self._same_site(request, is_secure)
        if not same_site:
            return None
        domain = self._settings.domain if is_within(host_of(request), self._settings.domain) else ""
        answer = BrowserAnswer(replace(self._settings, domain=domain), is_secure, same_site)
        return VisitorCookie(self._rules, request.cookies.get(self._settings.name, ""), answer)

    def _same_site(self, request: web.Request, is_secure: bool) -> str:
        """Return the attribute; empty where the browser would not keep the cookie of an answer to this page."""
        if request.headers.get("Sec-Fetch-Site", "") != "cross-site":
            return "Lax"
        return "None" if is_secure and self._origins.allows(request.headers.get("Origin", "")) else ""


class BrowserAnswer(NamedTuple):
    """How the cookie reaches a browser."""

    settings: IdCookieSettings
    is_secure: bool
    same_site: str

    def set(self, response: web.StreamResponse, value: str) -> None:
        """Set the cookie, or renew its life."""
        self._add(response, value, self.settings.days * DAY_S, self.settings.domain)

    def delete(self, response: web.StreamResponse) -> None:
        """Delete the cookie, also the one of the host alone that was set before there was a domain."""
        for domain in dict.fromkeys(("", self.settings.domain)):
            self._add(response, "", 0, domain)

    def _add(self, response: web.StreamResponse, value: str, seconds: int, domain: str) -> None:
        cookie: Morsel[str] = Morsel()
        cookie.set(self.settings.name, value, value)
        cookie.update({"path": "/", "max-age": str(seconds), "domain": domain, "samesite": self.same_site})
        cookie.update({"httponly": "1", "secure": "1" if self.is_secure else ""})
        response.headers.add("Set-Cookie", cookie.OutputString())
        response.headers["Cache-Control"] = "no-store"


class RelayedAnswer(NamedTuple):
    """How the cookie reaches a container."""

    days: int

    def set(self, response: web.StreamResponse, value: str) -> None:
        """Name the value that the container shall set."""
        response.headers[RELAY], response.headers[RELAY_AGE] = value, str(self.days * DAY_S)

    def delete(self, response: web.StreamResponse) -> None:
        """Ask the container to delete the cookie."""
        response.headers[RELAY], response.headers[RELAY_AGE] = "", "0"


class VisitorCookie:
    """The cookie of one request: any refusal of the request deletes it, else the last event decides."""

    def __init__(self, rules: StorageRules, sent_value: str, answer: BrowserAnswer | RelayedAnswer) -> None:
        self._rules = rules
        self._answer = answer
        self._was_sent = bool(sent_value)
        self._is_new = not _VALUE.fullmatch(sent_value)
        self._value = new_value() if self._is_new else sent_value
        self._consent = StorageConsent.UNKNOWN
        self._latest: tuple[tuple[str, Mapping[str, str], int], StorageConsent] | None = None

    def identify(self, batches: Iterable[EventBatch]) -> list[EventBatch]:
        """Decide on all events, and return batches whose parsers add the id to the events that grant storage.

        A new id that the answer will not set is added to none: nobody would send it again.
        """
        decided = [(batch, self._parse(batch)) for batch in batches]
        for _, events in decided:
            for event in events.values():
                self._consider(event.consent)
        is_used = not self._is_new or self._consent is StorageConsent.GRANTED
        return [batch._replace(parse=self._parser(events, is_used)) for batch, events in decided]

    def consider_choices(self, choices: Iterable[Any], parse: ChoiceParser, context: RequestContext) -> None:
        """Take the choices of a request into account."""
        for item in choices:
            choice = parse(item)
            if not isinstance(choice, InvalidItem):
                self._consider(self._rules.decide_choice(choice, context.region or "", context.now_ms))

    def write(self, response: web.StreamResponse) -> str:
        """Write the cookie into the answer. Returns what was done, for the metric; empty where nothing was."""
        if self._consent is StorageConsent.GRANTED:
            self._answer.set(response, self._value)
            return "set" if self._is_new else "renewed"
        if self._consent is StorageConsent.REFUSED and self._was_sent:
            self._answer.delete(response)
            return "deleted"
        return ""

    def _consider(self, consent: StorageConsent | None) -> None:
        if consent is not None and self._consent is not StorageConsent.REFUSED:
            self._consent = consent

    def _parse(self, batch: EventBatch) -> dict[int, "DecidedItem"]:
        """Parse and decide on the items of a batch, by their `id()`: the batch keeps them, so that no other gets it."""
        return {id(item): self._decide(batch.parse(item), batch.context) for item in batch.items}

    def _decide(self, item: Item, context: RequestContext) -> "DecidedItem":
        if isinstance(item, InvalidItem):
            return DecidedItem(item, None)
        evidence = (choose_region(item, context), signals_of(item, context), context.now_ms)
        if self._latest is None or self._latest[0] != evidence:  # the events of a page have the same signals
            self._latest = evidence, self._rules.decide(*evidence)
        return DecidedItem(item, self._latest[1])

    def _parser(self, events: Mapping[int, "DecidedItem"], is_used: bool) -> ItemParser:
        def parse(raw: Any) -> Item:
            event, consent = events[id(raw)]
            if is_used and consent is StorageConsent.GRANTED and isinstance(event, ProtocolEvent):
                return replace(event, identifiers=[*event.identifiers, ("cookie", self._value)])
            return event

        return parse


class DecidedItem(NamedTuple):
    """A parsed item, and what it says about storage; None where it is no event."""

    item: Item
    consent: StorageConsent | None


def new_value() -> str:
    """Return a new value of the cookie."""
    return f"hw1.{secrets.token_urlsafe(16)}"


def host_of(request: web.Request) -> str:
    """Return the host that a request names, in lower case and without port."""
    host = request.host.lower()
    return host.rpartition(":")[0] if re.search(r":\d+$", host) else host


def is_within(host: str, domain: str) -> bool:
    """Return whether a host belongs to a domain: a browser rejects a cookie of any other."""
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def is_plain_loopback(request: web.Request) -> bool:
    """Return whether a request reached its own machine by http: there a browser may reject a cookie with `Secure`."""
    if request.scheme != "http" or request.headers.get("X-Forwarded-Proto", "").lower() == "https":
        return False
    host = host_of(request)
    address = parse_address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


__all__ = ["DEFAULT_DAYS", "MAX_DAYS", "EventBatch", "IdCookieSettings", "IdCookies", "VisitorCookie"]
