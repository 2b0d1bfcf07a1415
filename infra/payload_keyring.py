"""Payload encryption: AES-256-GCM (NIST SP 800-38D) under a key per day.

A day's key is derived from the master secret and a random salt in the keyring's folder. Deleting the salt destroys the key,
and makes every copy of that day's payloads unreadable.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.secrets import Secret

NONCE_BYTES = 12


class KeyDestroyed(LookupError):
    """The day's key was destroyed, or belongs to another keyring or secret: the payload cannot be read."""


class PayloadKeyring:
    """The daily keys of one installation. All its processes share the folder."""

    def __init__(self, folder: Path, secret: Secret) -> None:
        self._folder = folder
        self._secret = secret
        self._ciphers: dict[str, AESGCM] = {}

    def seal(self, payload: bytes, now: float, context: bytes = b"") -> tuple[str, bytes]:
        """Return (day, nonce + ciphertext) of `payload`. Opening it needs the same `context`."""
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        nonce = os.urandom(NONCE_BYTES)
        return day, nonce + self._cipher(day, create=True).encrypt(nonce, payload, context)

    def open(self, day: str, sealed: bytes, context: bytes = b"") -> bytes:
        """Return the payload. KeyDestroyed where the day's key is missing or the bytes were changed."""
        try:
            return self._cipher(day, create=False).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except InvalidTag:
            raise KeyDestroyed(f"payload of {day} does not open with this installation's key") from None

    def destroy_before(self, now: float, days: int) -> list[str]:
        """Delete the salts of days older than `days`; return those days."""
        oldest = (datetime.fromtimestamp(now, UTC) - timedelta(days=days)).date().isoformat()
        expired = [file for file in self._folder.glob("*.salt") if file.stem < oldest]
        for file in expired:
            file.unlink(missing_ok=True)
            self._ciphers.pop(file.stem, None)
        return sorted(file.stem for file in expired)

    def _cipher(self, day: str, *, create: bool) -> AESGCM:
        cipher = self._ciphers.get(day)
        if cipher is None:
            cipher = self._ciphers[day] = AESGCM(self._secret.derive(f"payload/{day}", self._salt(day, create=create)))
        return cipher

    def _salt(self, day: str, *, create: bool) -> bytes:
        file = self._folder / f"{day}.salt"
        try:
            return file.read_bytes()
        except FileNotFoundError:
            if not create:
                raise KeyDestroyed(f"the key of {day} was destroyed with its retention") from None
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written to a temporary file and linked: two processes at midnight agree on one salt, and none reads a partial one.
        draft = self._folder / f".{day}.{os.getpid()}.{os.urandom(4).hex()}"
        draft.touch(mode=0o600)
        draft.write_bytes(os.urandom(32))
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return file.read_bytes()
