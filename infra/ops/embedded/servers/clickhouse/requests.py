"""Parsing of ClickHouse's HTTP requests: user, statement, data, settings and parameters."""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from infra.ops.embedded.servers.clickhouse.access import USERS, User
from infra.ops.embedded.servers.clickhouse.bodies import BODY_BYTES, BodyFile, decoders, finish, unpack
from infra.ops.embedded.servers.clickhouse.errors import clickhouse_error
from infra.ops.embedded.servers.clickhouse.sql import DataInsert, data_insert

HEAD_BYTES = 1024 * 1024
"""Bytes of a body that are searched for the end of an INSERT's text."""
QUERY_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024

# Parameters of the interface, not settings (ClickHouse: HTTPHandler, reserved_param_names).
RESERVED = frozenset(
    {
        "buffer_size",
        "client_protocol_version",
        "close_session",
        "compress",
        "database",
        "decompress",
        "default_format",
        "network_compression_method",
        "network_zstd_compression_level",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "session_check",
        "session_id",
        "session_timeout",
        "stacktrace",
        "user",
        "wait_end_of_query",
    }
)
# Settings of ClickHouse's HTTP server: accepted, without effect.
IGNORED = frozenset(
    {
        "cancel_http_readonly_queries_on_client_close",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "http_native_compression_disable_checksumming_on_decompress",
        "http_response_buffer_size",
        "http_wait_end_of_query",
        "http_write_exception_in_output_format",
        "http_zlib_compression_level",
        "send_progress_in_http_headers",
    }
)
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Query:
    """A statement with its parameters. The data of an INSERT are in the body file."""

    text: bytes
    insert: DataInsert | None
    fields: Mapping[str, str]
    default_format: str
    database: str
    settings: Mapping[str, str]
    parameters: Mapping[str, str]


def foreign_reason(request: web.Request, address: str) -> str | None:
    """Return why a request comes from a web page instead of a program of this machine; None if it is allowed.

    A page of another site sends its Origin (Fetch, section 3.2), or a Host that resolves to loopback (DNS rebinding).
    """
    if _host_name(f"//{request.headers.get('Host', '')}") not in LOOPBACK_NAMES | {address}:
        return "Host is not this machine: use http://127.0.0.1 or http://localhost."
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.headers.get('Host', '')}":
        return "Requests of pages of another origin are refused."
    if request.headers.get("Sec-Fetch-Site", "none").lower() not in ("none", "same-origin"):
        return "Requests of pages of another site are refused."
    return None


def _host_name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def user_of(request: web.Request) -> User:
    """Return the user named by parameter, header or basic authorization. EngineError for an unknown one.

    Passwords are not checked: whoever reaches loopback reaches the data files too.
    """
    name = request.query.get("user") or request.headers.get("X-ClickHouse-User") or _basic_user(request) or "default"
    if name not in USERS:
        text = f"{name}: Authentication failed: the users here are {', '.join(USERS)}."
        raise clickhouse_error(516, text, "AUTHENTICATION_FAILED")
    return USERS[name]


def _basic_user(request: web.Request) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if not scheme:
        return ""
    try:
        if scheme.lower() != "basic":
            raise ValueError
        return base64.b64decode(value, validate=True).decode().partition(":")[0]
    except (ValueError, binascii.Error):
        text = "Authentication failed: use basic authorization, X-ClickHouse-User or user=."
        raise clickhouse_error(516, text, "AUTHENTICATION_FAILED") from None


async def read_query(request: web.Request, body: BodyFile) -> Query:
    """Read a request; the data of an INSERT are written to `body`. EngineError for an invalid request."""
    fields = dict(request.query)
    try:
        if request.content_type == "multipart/form-data":
            fields |= await _form(request)
        elif request.method not in ("GET", "HEAD"):
            await _receive(request, body, fields)
    except web.HTTPRequestEntityTooLarge:
        text = f"The request is larger than {BODY_BYTES} bytes: send the rows in several INSERTs."
        raise clickhouse_error(396, text, "TOO_MANY_BYTES") from None
    except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError):
        raise clickhouse_error(210, "The request ended before its body did.", "NETWORK_ERROR") from None
    parts = await asyncio.to_thread(_split_statement, fields.get("query", "").encode(), body)
    return Query(
        text=parts.text,
        insert=parts.insert,
        fields=fields,
        default_format=fields.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated",
        database=fields.get("database") or request.headers.get("X-ClickHouse-Database") or "",
        settings={k: v for k, v in fields.items() if k not in RESERVED | IGNORED and not k.startswith("param_")},
        parameters={k.removeprefix("param_"): v for k, v in fields.items() if k.startswith("param_")},
    )


async def _form(request: web.Request) -> dict[str, str]:
    fields = {}
    for name, value in (await request.post()).items():
        if not isinstance(value, str):
            text = "External tables are not supported here: INSERT the rows into a table, or use the function values()."
            raise clickhouse_error(48, text, "NOT_IMPLEMENTED")
        fields[name] = value
    return fields


async def _receive(request: web.Request, body: BodyFile, fields: Mapping[str, str]) -> None:
    chain = decoders(request.headers.get("Content-Encoding", ""), fields.get("decompress", "0") == "1")

    def write(chunk: bytes) -> None:
        for piece in unpack(chain, chunk):
            body.write(piece)

    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        if chain:
            await asyncio.to_thread(write, chunk)
        else:
            body.write(chunk)
    finish(chain)


class StatementParts(NamedTuple):
    """A statement without its data, and the offsets of an INSERT with data."""

    text: bytes
    insert: DataInsert | None


def _split_statement(query: bytes, body: BodyFile) -> StatementParts:
    """Split the request into statement and data; `body` then holds the data alone.

    As in ClickHouse's HTTP interface, the body continues the text of `query`: it is the rest of the statement, or the data.
    """
    text = query + b"\n" if query and body.size else query
    head = body.head(HEAD_BYTES)
    insert = data_insert(text + head)
    if insert is None:
        if body.size > QUERY_BYTES:
            raise clickhouse_error(62, f"The statement is longer than {QUERY_BYTES} bytes.", "SYNTAX_ERROR")
        return StatementParts(text + body.head(QUERY_BYTES), None)
    if insert.data_at >= len(text):
        body.drop_head(insert.data_at - len(text))
        return StatementParts((text + head)[: insert.data_at], insert)
    # The data begin in the text of `query`; the body continues them.
    rest = body.head(BODY_BYTES)
    body.drop_head(body.size)
    body.write(text[insert.data_at :] + rest)
    return StatementParts(text[: insert.data_at], insert)
