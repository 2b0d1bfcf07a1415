"""E-mail addresses and phone numbers in texts where none belong. Pure."""

import re

EMAIL = re.compile(r"[A-Za-z0-9._+-]{1,64}(?:@|%40)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}")
# Only numbers with a country's prefix: order numbers and timestamps are no phone numbers.
PHONE = re.compile(r"(?<![\w+])(?:\+|%2[Bb]|00)[1-9](?:[ ().\-/]?[0-9]){8,13}(?![\w])")


def masked(text: str) -> str:
    """The text with addresses and numbers replaced; the same object where there are none."""
    if "@" in text or "%40" in text:
        text = EMAIL.sub("[email]", text)
    if "+" in text or "%2" in text or "00" in text:
        text = PHONE.sub("[phone]", text)
    return text
