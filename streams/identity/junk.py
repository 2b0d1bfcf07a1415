"""Literals that identify nobody: what tags send when they have no value. Pure.

One of them would merge everybody who sends it. `LITERALS` also contains the digests of every spelling, because senders hash
whatever value they have.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

WORDS = frozenset(
    {
        # no value, in several languages and tools
        "empty", "false", "inf", "infinity", "missing", "na", "nan", "nat", "nil", "no", "none", "nonetype", "notapplicable",
        "notavailable", "notdefined", "notfound", "notset", "novalue", "null", "nullptr", "off", "on", "optionalnil", "ref",
        "true", "undef", "undefined", "unset", "void", "yes", "unavailable", "unassigned", "unidentified",
        # placeholders for persons
        "anon", "anonym", "anonymous", "anonymoususer", "anonymus", "guest", "guestuser", "nobody", "noname", "notloggedin",
        "loggedout", "public", "someone", "unknown", "unknownuser", "visitor", "gast", "inconnu", "unbekannt", "desconocido",
        # field names instead of values
        "anonymousid", "clientid", "cookieid", "customer", "customerid", "deviceid", "distinctid", "email", "emailaddress",
        "externalid", "ga", "guid", "id", "mail", "phone", "phonenumber", "sessionid", "string", "uid", "user", "useremail",
        "userid", "username", "uuid", "visitorid", "youremail", "yourid",
        # placeholders
        "abc123", "asdf", "asdfasdf", "bar", "blank", "changeme", "default", "demo", "dummy", "error", "example", "fake", "foo",
        "foobar", "placeholder", "qwerty", "replaceme", "sample", "tba", "tbd", "test", "test123", "tester", "testid",
        "testing", "testuser", "todo", "value", "xyz", "your", "xxxxxxxxxxyyyyyyyyyy",
        # serialised objects
        "object", "objectobject", "objectnull", "objectundefined", "objectpromise", "functionobject", "promise",
        # placeholder numbers, except zero
        "1", "01", "123456789", "1234567890", "0123456789", "0123456789abcdef",
    }
)  # fmt: skip
"""Lower case, letters and digits only: `Not-Set`, `(not set)` and `"not_set"` all become `notset`."""
SAMPLES = frozenset(
    {
        "9774d56d682e549c",  # id of the Android emulator and of one phone model
        "35009a79-1a05-49d7-b876-2b884d0f825b",  # client id in the documentation of the Measurement Protocol
        "123456.7654321",  # client id in the documentation of its successor
        "00000000-0000-0000-0000-000000000001",
        "12345678-1234-1234-1234-123456789012",
        "12345678-1234-1234-1234-123456789abc",
        "12345678-1234-5678-1234-567812345678",  # documentation of Python's uuid module
        "01234567-89ab-cdef-0123-456789abcdef",
    }
)
"""Ids shown in documentation and by emulators, lower case."""
ADDRESSES = frozenset(
    {
        "a@a.aa", "a@a.com", "a@b.c", "a@b.com", "abc@abc.com", "abc@xyz.com", "asd@asd.com", "asdf@asdf.com",
        "email@email.com", "foo@bar.com", "mail@mail.com", "me@me.com", "name@domain.com", "no@email.com", "no@mail.com",
        "no@no.com", "none@none.com", "qwe@qwe.com", "user@domain.com", "username@domain.com", "you@domain.com",
        "your@email.com", "123@123.com", "xyz@xyz.com",
    }
)  # fmt: skip
"""Addresses that people type to get past a form."""
MAILBOXES = frozenset(
    {
        "anonymised", "anonymized", "anonymous", "anonym", "asdf", "asdfasdf", "changeme", "deleted", "deleteduser",
        "donotreply", "dummy", "emailaddress", "example", "fake", "fakeemail", "foo", "foobar", "guest", "guestcheckout",
        "guestuser", "invalid", "keineemail", "keinemail", "missing", "nobody", "noemail", "noname", "nomail", "none",
        "noreply", "noreplay", "notavailable", "notset", "notprovided", "null", "placeholder", "qwerty", "redacted", "removed",
        "sample", "test", "tester", "testing", "testemail", "testmail", "testuser", "undefined", "unknown", "unknownuser",
        "youremail",
        # mailboxes of servers and their operators (RFC 2142): never one customer's
        "abuse", "bounce", "bounces", "daemon", "hostmaster", "mailerdaemon", "postmaster", "root", "webmaster",
    }
)  # fmt: skip
"""Local parts, letters and digits only, that are nobody's at any domain."""
TYPED = frozenset(
    {
        "abc", "abcd", "asd", "qwe", "qwer", "qwert", "qwertz", "azerty", "yxc", "zxc", "123", "1234", "12345", "ab", "aaa",
        "aucun", "geen", "kein", "keine", "leer", "name", "nein", "nessuno", "niemand", "ninguno", "nix", "non", "nope",
    }
)  # fmt: skip
"""Nobody's where the mailbox equals the domain's name, as in `qwe@qwe.de`."""
RESERVED = (
    "example.com",
    "example.net",
    "example.org",
    "example.edu",
    "domain.tld",
    "test",
    "invalid",
    "localhost",
    "localdomain",
)
"""Reserved domains (RFC 2606), except `.example`, which examples of shops and the simulator use."""
RESERVED_MAILBOXES = WORDS | {
    "a", "admin", "bob", "alice", "contact", "doe", "firstlast", "firstname", "firstnamelastname", "hello", "info", "jane",
    "janedoe", "jdoe", "joe", "john", "johndoe", "johnsmith", "lastname", "mailbox", "me", "name", "support", "you", "yourname",
}  # fmt: skip
"""Local parts that are nobody's at reserved domains. Others pass, because people who try things out differ."""
HASHES = ("md5", "sha1", "sha256", "sha512")

_TEMPLATE = re.compile(
    r"\{\{|\$\{|#\{|<%|\[%|\{%|%%[^%]+%%|\[\[|@@[^@]+@@|\*\|[^|]+\|\*|%7b%7b|\$%7b|&lt;%|\[object\b"
    r"|%\{[^{}]+\}|%\([a-z_][^()]*\)[sd]|\\\{[^{}]+\}|(?:&lt;|%7b|%3c|%5b)[a-z_. ]+(?:&gt;|%7d|%3e|%5d)"
    r"|^(?:function\b|\(\) ?=>|class\b.*\{)"
)
_WHOLE_TEMPLATE = re.compile(
    r"(?:\{[^{}]*\}|\[[^\[\]]*\]|<[^<>]*>|%[a-z_.]{2,}%|\$[a-z_.]+\$?|__[a-z_]+__|:[a-z_]+:?|%[sdif])",
)
_SEPARATORS = re.compile(r"[\W_]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
_FILLED = re.compile(r"x{3,}")
_PLAIN = re.compile(r"[a-z0-9._:-]*[2-9][a-z0-9._:-]*")
"""Nearly all ids: no template, no phrase."""
_RESERVED_ENDS = tuple(f".{domain}" for domain in RESERVED)
_TEST_MAILBOX = re.compile(r"^test(?:er|ing|user|mail|email|account|e)?[0-9]*$")
_ENCODED = (("&quot;", '"'), ("&#34;", '"'), ("&#39;", "'"), ("%22", '"'), ("%27", "'"), ("%20", " "), ("\\u0000", ""))
_ROUNDED = re.compile(r"-?[0-9](?:[.,][0-9]+)?e\+[0-9]+")
"""How programs and spreadsheets write a long number after its last digits are lost."""
SHORTEST_RUN = 8
"""Equal letters or digits that are padding and no id."""
LONGEST_PHRASE = 64


def digests(words: Iterable[str]) -> frozenset[str]:
    """Return each word's digests, lower case hexadecimal."""
    return frozenset(
        hashlib.new(name, word.encode(), usedforsecurity=False).hexdigest() for word in words for name in HASHES
    )  # fmt: skip


def spellings() -> frozenset[str]:
    """Return what senders without a value hash: words in their usual spellings, samples, addresses."""
    phrases = {
        "",
        " ",
        "0",
        "-",
        "-1",
        "n/a",
        "(not set)",
        "not set",
        "not_set",
        "(none)",
        "[object object]",
        "[object Object]",
    }
    nil = "00000000-0000-0000-0000-000000000000"
    words = {form for word in WORDS for form in (word, word.upper(), word.capitalize())}
    addresses = {f"{box}@{domain}" for box in ("test", "user", "noreply", "info") for domain in ("example.com", "test.com")}
    return frozenset({*phrases, *words, "NaN", "noReply", nil, nil.replace("-", ""), *SAMPLES, *ADDRESSES, *addresses})


LITERALS = SAMPLES | ADDRESSES | digests(spellings())
"""Compared in lower case."""


def is_junk(value: str) -> bool:
    """Return whether an id of a user, a device or a browser is nobody's. `value`: trimmed."""
    lower = value.lower()
    if lower in LITERALS or lower in WORDS or ("e+" in lower and _ROUNDED.fullmatch(lower)):
        return True
    if _PLAIN.fullmatch(lower):
        lower = lower.strip("._:-")
        plain = lower.replace("-", "") if "-" in lower else lower
        return (
            lower in LITERALS
            or plain in LITERALS
            or plain in WORDS
            or (lower.count(lower[-1]) >= SHORTEST_RUN and _is_run(plain))
        )
    if not lower.isascii():
        lower = unicodedata.normalize("NFKC", lower)  # full-width letters
    for written, character in _ENCODED:
        if written in lower:
            lower = lower.replace(written, character)
    if _TEMPLATE.search(lower) or _WHOLE_TEMPLATE.fullmatch(lower):
        return True
    if _EDGES.sub("", lower) in LITERALS:
        return True
    tokens = [token for token in _SEPARATORS.split(lower) if token]
    plain = "".join(tokens)
    if not plain.strip("0") or plain in LITERALS or _is_run(plain) or _FILLED.fullmatch(plain):
        return True
    if len(plain) > LONGEST_PHRASE:
        return False
    return plain in WORDS or (len(tokens) > 1 and all(token in WORDS and token.isalpha() for token in tokens))


def is_junk_address(local: str, domain: str) -> bool:
    """Return whether a normalised e-mail address is nobody's."""
    address = f"{local}@{domain}"
    if address in ADDRESSES:
        return True
    box = _joined(local.partition("+")[0])
    if not box.strip("0") or box in MAILBOXES or _TEST_MAILBOX.match(box):
        return True
    if box in RESERVED_MAILBOXES and f".{domain}".endswith(_RESERVED_ENDS):
        return True
    label = _joined(domain.partition(".")[0])
    return box == label and (box in WORDS or box in TYPED or len(set(box)) == 1)


def is_junk_number(digits: str) -> bool:
    """Return whether a phone number without country code is nobody's: one repeated digit, or ascending or descending."""
    rest = digits.lstrip("0")
    return len(set(rest)) < 2 or rest in "12345678901234567890" or rest in "09876543210987654321"


def is_template(value: str) -> bool:
    """Return whether the whole text is an unfilled template variable."""
    return _WHOLE_TEMPLATE.fullmatch(value.lower()) is not None


def has_template(value: str) -> bool:
    """Return whether the text contains an unfilled template variable or an object written as text."""
    return _TEMPLATE.search(value.lower()) is not None


def _joined(text: str) -> str:
    """Return the letters and digits of a text."""
    return _SEPARATORS.sub("", text)


def _is_run(plain: str) -> bool:
    plain = _joined(plain)
    return len(plain) >= SHORTEST_RUN and len(set(plain)) == 1
