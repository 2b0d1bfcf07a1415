"""Values of request headers."""

import base64

import pytest

from infra.http.headers import basic_user, bearer_token, gpc_objection


@pytest.mark.parametrize(
    ("authorization", "token"),
    [("Bearer k", "k"), ("bearer k", "k"), ("Basic k", ""), ("k", ""), ("", ""), ("Bearer", ""), ("Bearer a b", "a b")],
)
def test_a_bearer_token(authorization: str, token: str) -> None:
    """The scheme is read in any case."""
    assert bearer_token(authorization) == token


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        (f"Basic {base64.b64encode(b'key:').decode()}", "key"),
        (f"basic {base64.b64encode(b'key:secret').decode()}", "key"),
        (f"Basic {base64.b64encode(b'key').decode()}", "key"),
        (f"Basic {base64.b64encode(bytes([255])).decode()}", ""),
        ("Basic ???", ""),
        ("Bearer key", ""),
        ("", ""),
    ],
)
def test_a_basic_user_name(authorization: str, user: str) -> None:
    """With or without a colon; nothing where it cannot be decoded."""
    assert basic_user(authorization) == user


@pytest.mark.parametrize(
    ("values", "objection"),
    [((), ""), (("",), ""), (("0",), ""), ((" 0 ",), ""), (("1",), "1"), (("0", "1"), "1"), (("1", "yes"), "1, yes")],
)
def test_an_objection_is_what_was_sent(values: tuple[str, ...], objection: str) -> None:
    """Every value but an empty one and 0 objects."""
    assert gpc_objection(values) == objection
