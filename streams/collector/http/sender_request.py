"""One request and what is known of it so far, which decides what a rejection leaves behind."""

import re
import time
from collections.abc import Iterator

from aiohttp import web

from infra.http.body import BodyLate, RequestBody
from infra.http.compression import UndecodableBody
from infra.http.headers import gpc_objection, header_text
from infra.parsing.address import client_address
from infra.parsing.region import region_of
from streams.collector.http.options import CollectorOptions
from streams.collector.http.rejections import RejectionReason, RequestRejected
from streams.collector.normalise import RequestContext
from streams.collector.protocols.doors import RequestHead
from streams.collector.write_keys import KeyKind, WriteKey

BODY_S = 10.0
"""Seconds that a body may take."""
ANONYMOUS = "SP-Anonymous"
"""The header by which Snowplow's trackers ask that neither address nor network user id is kept."""

_KEY_FIELD = re.compile(rb'"(?:aid|writeKey)"\s*:\s*"([!-~]{1,256}?)"')


class SenderRequest:
    """A request, the door that takes it, its write key and its body."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.door = "none"
        """The label of metrics."""
        self.key: WriteKey | None = None
        self._body = RequestBody(request)

    @property
    def head(self) -> RequestHead:
        """Where a key may stand before the payload is read."""
        return RequestHead(header_text(self.request.headers.get("Authorization", "")), self.request.query)

    @property
    def is_anonymous(self) -> bool:
        """Whether neither address nor network user id may be kept."""
        return ANONYMOUS in self.request.headers

    async def read(self) -> bytes:
        """Return the decompressed body. RequestRejected where it is late or cannot be decompressed, BodyTooLarge."""
        try:
            return await self._body.read(BODY_S)
        except BodyLate:
            raise RequestRejected(RejectionReason.INVALID_JSON, f"the body did not come within {BODY_S:g} s") from None
        except UndecodableBody:
            raise RequestRejected(RejectionReason.ENCODING) from None

    @property
    def sent_bytes(self) -> bytes:
        """The payload as sent, as far as it arrived: the query of a GET, else the body."""
        return header_text(self.request.query_string).encode() if self.request.method == "GET" else self._body.received

    def keys_in_bytes(self) -> Iterator[str]:
        """Yield what may be a write key in a payload that could not be parsed."""
        for match in _KEY_FIELD.finditer(self._body.received):
            yield match[1].decode()

    def context(self, key: WriteKey, options: CollectorOptions, problems: tuple[str, ...] = ()) -> RequestContext:
        """Return what the events of this request inherit. `problems`: what was mended in its body."""
        headers = self.request.headers
        region = header_text(headers.get(options.region_header, "")) if options.region_header else ""
        forwarded = headers.getall("X-Forwarded-For", ())
        address = client_address(self.request.remote or "", forwarded, options.trusted_proxies)
        return RequestContext(
            key.source,
            key.site,
            int(time.time() * 1000),
            # A server's headers tell where the server is.
            region_of(region) if key.kind is KeyKind.BROWSER else None,
            header_text(headers.get("User-Agent", "")),
            "" if self.is_anonymous else address,
            gpc_objection(headers.getall("Sec-GPC", ())),
            key.kind,
            problems,
        )


__all__ = ["SenderRequest"]
