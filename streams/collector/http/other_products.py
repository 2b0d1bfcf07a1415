"""Paths of other products' senders, which are refused with an answer that names what to use instead. Pure."""

OWN_JSON = "send own JSON to POST /v1/events"
SEGMENT_SDK = "use a Segment or RudderStack SDK (POST /v1/batch), or send own JSON to POST /v1/events"
GA4 = "use the Measurement Protocol (POST /mp/collect), a server container's tag, or own JSON to POST /v1/events"
SNOWPLOW = "trackers send to POST /com.snowplowanalytics.snowplow/tp2 or GET /i"

PATHS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("/e", "/capture", "/decide", "/flags", "/s", "/i/v0/e", "/array"), ("PostHog", SEGMENT_SDK)),
    **dict.fromkeys(("/batch", "/track", "/identify"), ("PostHog, Mixpanel, Amplitude or another product", SEGMENT_SDK)),
    **dict.fromkeys(("/engage", "/groups", "/import"), ("Mixpanel", SEGMENT_SDK)),
    **dict.fromkeys(("/2/httpapi", "/httpapi", "/groupidentify"), ("Amplitude", SEGMENT_SDK)),
    **dict.fromkeys(("/matomo.php", "/piwik.php", "/js/container"), ("Matomo", OWN_JSON)),
    **dict.fromkeys(("/b/ss", "/ee", "/interact", "/collect/interact"), ("Adobe", OWN_JSON)),
    "/api/event": ("Plausible", OWN_JSON),
    "/api/send": ("Umami", OWN_JSON),
    "/tr": ("Meta's pixel", OWN_JSON),
    **dict.fromkeys(("/j/collect", "/r/collect", "/collect", "/gtag/js"), ("Google Analytics", GA4)),
    **dict.fromkeys(("/r/tp2", "/com.snowplowanalytics.iglu/v1"), ("a Snowplow redirect or webhook", SNOWPLOW)),
    **dict.fromkeys(
        ("/v1/projects", "/sourceConfig"), ("an SDK's settings", "settings come from the vendor or a file of yours")
    ),
}
"""Path, with everything beneath it -> (product, what to use instead)."""


def refuse_product(path: str) -> str:
    """Return the message for a path of another product's sender; empty for any other path."""
    while path:
        if path in PATHS:
            product, instead = PATHS[path]
            return f"this is a path of {product}, whose protocol Headwater does not take: {instead}"
        path = path.rpartition("/")[0]
    return ""


__all__ = ["refuse_product"]
