"""A schema registry on loopback, for tests, that serves a contracts folder's lock file to Confluent clients.

It implements what `SchemaRegistryClient` and `AvroSerializer` use. Each request reads the lock file. Registering a new
schema appends to the lock file, so give it a separate folder where clients may register.
"""

import asyncio
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from schemas.compatibility import breaking_changes
from schemas.contract import ContractError, Schema, parse
from schemas.files import format_lock, read_lock, write_atomically
from schemas.publish import same_schema

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
MAX_BODY_BYTES = 1 << 20


class RegistryAnswerError(Exception):
    """An error response with Confluent's error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class EmbeddedSchemaRegistry:
    """Serves `<folder>/lock.json` on 127.0.0.1 in a thread. A context manager."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self._modes: dict[str, str] = {}
        self._writing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="schema-registry", daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen. OSError where the port is taken."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        """Close the listener and end the thread."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> "EmbeddedSchemaRegistry":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def _listen(self) -> None:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/subjects", self._subjects),
                web.get("/schemas/ids/{id}", self._by_id),
                web.get("/subjects/{subject}/versions", self._versions),
                web.get("/subjects/{subject}/versions/{version}", self._version),
                web.post("/subjects/{subject}/versions", self._register),
                web.post("/subjects/{subject}", self._lookup),
                web.post("/compatibility/subjects/{subject}/versions/{version}", self._compatible),
                web.get("/config", self._config),
                web.get("/config/{subject}", self._config),
                web.get("/mode", self._mode),
                web.get("/mode/{subject}", self._mode),
                web.put("/mode/{subject}", self._set_mode),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    def _entries(self, subject: str | None = None) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = read_lock(self.folder)["contracts"]
        matching = sorted((e for e in entries if subject in (None, _subject(e))), key=lambda entry: int(entry["version"]))
        if subject is not None and not matching:
            raise RegistryAnswerError(40401, f"Subject '{subject}' not found.")
        return matching

    async def _subjects(self, request: web.Request) -> web.Response:
        return _json(sorted({_subject(entry) for entry in self._entries()}))

    async def _by_id(self, request: web.Request) -> web.Response:
        for entry in self._entries():
            if str(entry["id"]) == request.match_info["id"]:
                return _json({"schema": json.dumps(entry["schema"])})
        raise RegistryAnswerError(40403, "Schema not found")

    async def _versions(self, request: web.Request) -> web.Response:
        return _json([entry["version"] for entry in self._entries(request.match_info["subject"])])

    async def _version(self, request: web.Request) -> web.Response:
        return _json(_answer(self._one(request)))

    def _one(self, request: web.Request) -> dict[str, Any]:
        entries = self._entries(request.match_info["subject"])
        version = request.match_info["version"]
        if version in ("latest", "-1"):
            return entries[-1]
        for entry in entries:
            if str(entry["version"]) == version:
                return entry
        raise RegistryAnswerError(40402, "Version not found.")

    async def _lookup(self, request: web.Request) -> web.Response:
        schema, _ = await _posted(request)
        for entry in self._entries(request.match_info["subject"]):
            if same_schema(entry["schema"], schema):
                return _json(_answer(entry))
        raise RegistryAnswerError(40403, "Schema not found")

    async def _compatible(self, request: web.Request) -> web.Response:
        schema, _ = await _posted(request)
        changes = breaking_changes(request.match_info["subject"], self._one(request)["schema"], schema)
        return _json({"is_compatible": not changes})

    async def _register(self, request: web.Request) -> web.Response:
        schema, requested_id = await _posted(request)
        subject = request.match_info["subject"]
        importing = self._modes.get(subject) == "IMPORT"
        if requested_id is not None and not importing:
            raise RegistryAnswerError(42205, f"Subject {subject} is not in import mode")
        if not subject.endswith("-value"):
            raise RegistryAnswerError(42201, "Subjects are called <topic>-value here.")
        with self._writing:
            return _json({"id": self._append(subject.removesuffix("-value"), schema, requested_id)})

    def _append(self, topic: str, schema: Schema, requested_id: int | None) -> int:
        state = read_lock(self.folder)
        versions = [entry for entry in state["contracts"] if entry["topic"] == topic]
        for entry in versions:
            if same_schema(entry["schema"], schema):
                return int(entry["id"])
        if any(entry["id"] == requested_id for entry in state["contracts"]):
            raise RegistryAnswerError(42207, f"Overwrite new schema with id {requested_id} is not permitted.")
        if requested_id is None and versions and (changes := breaking_changes(topic, versions[-1]["schema"], schema)):
            raise RegistryAnswerError(
                409, "Schema being registered is incompatible with an earlier schema: " + "; ".join(map(str, changes))
            )
        new_id: int = state["next_id"] if requested_id is None else requested_id
        version = 1 + max((entry["version"] for entry in versions), default=0)
        state["contracts"].append({"id": new_id, "topic": topic, "version": version, "schema": schema})
        state["next_id"] = max(state["next_id"], new_id + 1)
        write_atomically(self.folder / "lock.json", format_lock(state))
        return new_id

    async def _config(self, request: web.Request) -> web.Response:
        return _json({"compatibilityLevel": "FULL_TRANSITIVE"})

    async def _mode(self, request: web.Request) -> web.Response:
        return _json({"mode": self._modes.get(request.match_info.get("subject", ""), "READWRITE")})

    async def _set_mode(self, request: web.Request) -> web.Response:
        mode = (await _body(request)).get("mode")
        if mode not in ("IMPORT", "READWRITE"):
            raise RegistryAnswerError(42204, "Invalid mode. Valid values are READWRITE and IMPORT")
        self._modes[request.match_info["subject"]] = mode
        return _json({"mode": mode})


def _subject(entry: dict[str, Any]) -> str:
    return f"{entry['topic']}-value"


def _answer(entry: dict[str, Any]) -> dict[str, Any]:
    schema = json.dumps(entry["schema"])
    return {"subject": _subject(entry), "id": entry["id"], "version": entry["version"], "schemaType": "AVRO", "schema": schema}


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RegistryAnswerError(42201, "The body must be a JSON object.")
    return body


async def _posted(request: web.Request) -> tuple[Schema, int | None]:
    body = await _body(request)
    try:
        schema = json.loads(body["schema"])
        parse(schema)
    except Exception:  # noqa: BLE001, RUF100 - fastavro raises many kinds; each means the same to the sender
        raise RegistryAnswerError(42201, "Input schema is an invalid Avro schema") from None
    requested_id = body.get("id")
    return schema, requested_id if isinstance(requested_id, int) and requested_id > 0 else None


def _json(answer: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(answer), status=status, content_type=CONTENT_TYPE)


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except RegistryAnswerError as refused:
        status = refused.code if refused.code < 1000 else refused.code // 100
        return _json({"error_code": refused.code, "message": str(refused)}, status)
    except ContractError as error:
        return _json({"error_code": 50001, "message": str(error)}, 500)
    except web.HTTPException as error:
        return _json({"error_code": error.status, "message": error.reason}, error.status)
    return answer
