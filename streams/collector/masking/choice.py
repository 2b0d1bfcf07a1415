"""Masks one choice of `POST /v1/consent`: its signals' names and values, and its site. Pure."""

from dataclasses import replace

from streams.collector.event import ProtocolEvent
from streams.collector.masking.event_mask import EventMask, OnMasked
from streams.collector.protocols.choices import SentChoice


def mask_choice(choice: SentChoice, address: str, on_masked: OnMasked) -> SentChoice:
    """Return the masked choice. `address` is the sender's IP address. A site that shows a person's address becomes empty."""
    event = ProtocolEvent("", "consent", identifiers=choice.identifiers, signals=choice.signals)
    mask = EventMask(event, address, on_masked)
    site = choice.site if mask.mask(choice.site) is choice.site else ""
    return replace(choice, signals=mask.mask_signals(choice.signals), site=site)
