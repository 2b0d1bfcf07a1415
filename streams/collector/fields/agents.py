"""What a user agent says about its device, and whether it is a known crawler."""

import re
from functools import lru_cache

MOBILE = re.compile(r"Mobi|iPhone|iPod|Windows Phone")
TABLET = re.compile(r"iPad|Tablet|PlayBook|Silk/|Android(?!.*Mobi)")


@lru_cache(maxsize=4_096)
def device_class(agent: str) -> str:
    """desktop, mobile, tablet, bot, or empty where nothing is known."""
    if not agent:
        return ""
    if is_bot(agent):
        return "bot"
    if TABLET.search(agent):
        return "tablet"
    return "mobile" if MOBILE.search(agent) else "desktop"


@lru_cache(maxsize=4_096)
def is_bot(agent: str) -> bool:
    """A crawler that the list of crawler-user-agents knows."""
    import crawleruseragents

    return bool(agent) and bool(crawleruseragents.is_crawler(agent))
