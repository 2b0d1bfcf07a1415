"""interim"""

from streams.consent.signals import Word


def gpc_word(text):
    value = text.strip().lower()
    if value in ("0", "false", ""):
        return Word.UNKNOWN
    return Word.DENY if value in ("1", "true") else Word.INVALID
