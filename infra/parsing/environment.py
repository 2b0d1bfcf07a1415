"""Environment variables as env files, shells and YAML really hand them over."""

from collections.abc import MutableMapping

PREFIX = "HEADWATER_"
QUOTES = ("'", '"')


def clean_value(text: str) -> str:
    """Remove surrounding white space (also of Windows line ends) and one pair of quotes, which some env files hand over."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in QUOTES:
        # Whoever passes the quotes on passes on what was escaped within them, too.
        return text[1:-1].replace(f"\\{text[0]}", text[0]).strip()
    return text


def clean_environment(environment: MutableMapping[str, str]) -> None:
    """Clean the `HEADWATER_*` variables in place, for options that read one themselves and for child processes."""
    for name, value in environment.items():
        if name.startswith(PREFIX) and name != f"{PREFIX}SECRET":  # a secret in quotes is refused by its setting
            environment[name] = clean_value(value)


__all__ = ["PREFIX", "QUOTES", "clean_environment", "clean_value"]
