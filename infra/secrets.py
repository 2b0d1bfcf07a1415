"""The master secret and the keys derived from it by label (HKDF-SHA256, RFC 5869)."""

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.errors import ConfigError


class Secret:
    """The master secret. `repr` shows no part of it."""

    def __init__(self, master: str) -> None:
        if len(master) < 32:
            raise ConfigError("the master secret needs at least 32 characters, e.g. from `openssl rand -hex 32`")
        self._master = master.encode()

    def __repr__(self) -> str:
        return "Secret(...)"

    def derive(self, label: str, salt: bytes | None = None) -> bytes:
        """Return the 32-byte key of `label`. The same label and salt give the same key on every machine."""
        return HKDF(SHA256(), 32, salt, b"headwater/" + label.encode()).derive(self._master)


def sha256_hex(text: str) -> str:
    """Return the hex SHA-256 of a text that is compared but never needed in clear again, such as a write key."""
    return hashlib.sha256(text.encode()).hexdigest()


def equal_in_constant_time(a: str, b: str) -> bool:
    """Compare two texts in constant time."""
    return hmac.compare_digest(a.encode(), b.encode())
