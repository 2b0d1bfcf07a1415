"""Device class, crawlers and HTTP libraries, from the user agent."""

import re
from functools import lru_cache

from streams.collector.write_keys import KeyKind

MOBILE = re.compile(r"Mobi|iPhone|iPod|Windows Phone")
TABLET = re.compile(r"iPad|Tablet|PlayBook|Silk/|Android(?!.*Mobi)")


_ONE_PRODUCT = re.compile(r"[\w.+\- ]{1,64}(?:/[\w.+\-]*)?")
"""An agent without a platform in parentheses, as libraries and SDKs have: `axios/1.9.0`."""


def is_visitors(agent: str, kind: KeyKind) -> bool:
    """Return whether a request's user agent is the visitor's: under keys of servers a library's is the server's."""
    return kind is KeyKind.BROWSER or not is_library(agent)


@lru_cache(maxsize=4_096)
def is_library(agent: str) -> bool:
    """Return whether an HTTP library or an SDK has this user agent."""
    import crawleruseragents

    if _ONE_PRODUCT.fullmatch(agent):
        return True
    entries = crawleruseragents.CRAWLER_USER_AGENTS_DATA
    return any("http-library" in entries[index].get("tags", ()) for index in crawleruseragents.matching_crawlers(agent))


@lru_cache(maxsize=4_096)
def device_class(agent: str) -> str:
    """Return `desktop`, `mobile`, `tablet` or `bot`; empty where there is no user agent."""
    if not agent:
        return ""
    if is_bot(agent):
        return "bot"
    if TABLET.search(agent):
        return "tablet"
    return "mobile" if MOBILE.search(agent) else "desktop"


@lru_cache(maxsize=4_096)
def is_bot(agent: str) -> bool:
    """Return whether the crawler-user-agents list contains this user agent."""
    import crawleruseragents

    return bool(agent) and bool(crawleruseragents.is_crawler(agent))
