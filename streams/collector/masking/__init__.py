"""Masks e-mail addresses, phone numbers, user ids and IP addresses in events and choices, in any encoding. Pure."""

from streams.collector.masking.choice import mask_choice
from streams.collector.masking.event_mask import EventMask
from streams.collector.masking.text import mask_text

__all__ = ["EventMask", "mask_choice", "mask_text"]
