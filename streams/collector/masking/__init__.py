"""Masks at the door: e-mail addresses, phone numbers, user ids and IP addresses in clear, however they are spelled. Pure."""

from streams.collector.masking.choice import mask_choice
from streams.collector.masking.event_mask import EventMask
from streams.collector.masking.text import mask_text

__all__ = ["EventMask", "mask_choice", "mask_text"]
