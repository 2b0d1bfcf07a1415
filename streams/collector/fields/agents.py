"""Device class and crawler detection from the user agent."""

import re
from functools import lru_cache

MOBILE = re.compile(r"Mobi|iPhone|iPod|Windows Phone")
TABLET = re.compile(r"iPad|Tablet|PlayBook|Silk/|Android(?!.*Mobi)")


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
