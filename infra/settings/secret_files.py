"""Secrets from files. Each error names the file and the remedy, never the content."""

import codecs
from pathlib import Path

from infra.errors import ConfigError
from infra.parsing.environment import QUOTES


def read_secret(file: Path, variable: str) -> str:
    """Return a file's text without surrounding white space, so that line ends do not matter. FileNotFoundError; ConfigError."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        # What a container engine mounts where the file was missing.
        raise ConfigError(f"{variable}: {file} is a folder, not a file: write the secret to a file and name that") from None
    except OSError as error:
        raise ConfigError(
            f"{variable}: {file} cannot be read ({error.strerror}): let the user that runs this command read it"
        ) from None
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # As a part of the secret it would give keys other than the same secret elsewhere.
        raise ConfigError(f"{variable}: {file}, line 1 begins with a byte order mark: save it as UTF-8 without one")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{variable}: {file}, line {line} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{variable}: {file} is empty: write at least 32 characters to it, e.g. from `openssl rand -hex 32`")
    return text


def check_plain(secret: str) -> str:
    """Return a secret of the environment. ValueError where blanks or quotes surround it, which programs read differently."""
    # Removing them would give other keys, and so other pseudonyms, than a release that kept them.
    if secret != secret.strip() or (secret[:1] in QUOTES and secret[0] == secret[-1]):
        raise ValueError(
            "is surrounded by quotes or white space: remove them (if they belong to the secret, put it into a file and name "
            "it by HEADWATER_SECRET_FILE)"
        )
    return secret


__all__ = ["check_plain", "read_secret"]
