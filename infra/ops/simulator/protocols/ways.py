"""In which way a device sends its events: as a server or a browser does, compressed or not. Pure."""

import zlib
from enum import Enum

from infra.ops.simulator.world.acts import Defect, Device, SimulatedRequest, VisitorChoice

WAYS = 5
"""Of as many devices, two send as browsers and one compresses its bodies."""
CONSENT_MODE = (VisitorChoice.MODE_ALL, VisitorChoice.MODE_NONE, VisitorChoice.MODE_ANALYTICS)
FRESH_MS = 2_000
ITEM_DEFECTS = (Defect.NONE, Defect.NO_NAME, Defect.NOT_AN_OBJECT)


class SendingWay(Enum):
    """The way of one request."""

    SERVER = "server"
    BROWSER = "browser"
    COMPRESSED = "server, with gzip"


def choose_way(request: SimulatedRequest) -> SendingWay:
    """Return the way of a request's device. One that is damaged as a whole is a server's, so that its marker is legible."""
    number = _device_number(request.device)
    if any(event.defect not in ITEM_DEFECTS for event in request.events):
        return SendingWay.SERVER
    if number < 2:
        return SendingWay.BROWSER if _fits_browser(request) else SendingWay.SERVER
    return SendingWay.COMPRESSED if number == 2 else SendingWay.SERVER


def _device_number(device: Device) -> int:
    return zlib.crc32(device.cookie.encode()) % WAYS


def _fits_browser(request: SimulatedRequest) -> bool:
    """Return whether a browser could say it: Google's tag knows Consent Mode alone, and no time of an event."""
    if request.device.door != "ga4":
        return True
    return request.device.choice in CONSENT_MODE and all(
        event.age_ms <= FRESH_MS and not event.dated for event in request.events
    )


__all__ = ["SendingWay", "choose_way"]
