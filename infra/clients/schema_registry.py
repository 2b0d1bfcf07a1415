"""A client of a Confluent-compatible schema registry that registers contracts under the ids of the lock file.

Confluent's registry accepts given ids in mode IMPORT. Elsewhere a version is registered without an id, and the id that the
registry assigns must be the one of the lock file.
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from infra.errors import ConfigError
from schemas.contract import Contract, Schema
from schemas.publish import same_schema

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16 << 20

NOT_FOUND = {40401: "subject", 40402: "version", 40403: "schema"}


class RegistryError(Exception):
    """The registry answered with an error: HTTP status, its own code and message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class SchemaRegistry:
    """One registry. User and password are part of the URL and never appear in messages."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("HEADWATER_SCHEMA_REGISTRY: must be http(s)://[user:password@]host[:port]")
        self.address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        self._timeout_s = timeout_s
        self._headers = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()

    def schema(self, schema_id: int) -> Schema | None:
        """Return the schema with this id, or None."""
        try:
            schema: Schema = json.loads(self._request("GET", f"/schemas/ids/{schema_id}")["schema"])
        except RegistryError as refusal:
            if refusal.code in NOT_FOUND:
                return None
            raise
        return schema

    def lookup(self, subject: str, schema: Schema) -> int | None:
        """Return the id of this schema in a subject, or None."""
        try:
            return int(self._request("POST", f"/subjects/{quote(subject, safe='')}", {"schema": json.dumps(schema)})["id"])
        except RegistryError as refusal:
            if refusal.code in NOT_FOUND:
                return None
            raise

    def compatible(self, subject: str, schema: Schema) -> bool:
        """Whether the registry's own rules accept this schema as the subject's next version."""
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        try:
            return bool(self._request("POST", path, {"schema": json.dumps(schema)})["is_compatible"])
        except RegistryError as refusal:
            if refusal.code in NOT_FOUND:
                return True
            raise

    def register(self, contract: Contract) -> bool:
        """Register a contract under its id; return False if it was registered. ConfigError where the id cannot be used."""
        try:
            registered = self.schema(contract.id)
            if registered is not None and not same_schema(registered, contract.schema):
                raise ConfigError(self._id_conflict(contract, "another schema has that id there"))
            subject = subject_of(contract)
            current_id = self.lookup(subject, contract.schema)
            if current_id == contract.id:
                return False
            if current_id is not None:
                raise ConfigError(self._id_conflict(contract, f"it has the same schema under id {current_id}"))
            assigned_id = self._import_contract(subject, contract) or self._register_contract(subject, contract)
        except RegistryError as refusal:
            raise ConfigError(
                f"the registry at {self.address} refused {contract.topic} version {contract.version}: "
                f"{refusal} (status {refusal.status}, code {refusal.code})"
            ) from None
        if assigned_id != contract.id:
            raise ConfigError(self._id_conflict(contract, f"it gave id {assigned_id}"))
        return True

    def register_all(self, contracts: Iterable[Contract]) -> list[Contract]:
        """Register contracts in the order of their ids; return those that were new to the registry."""
        return [contract for contract in sorted(contracts, key=lambda contract: contract.id) if self.register(contract)]

    def _id_conflict(self, contract: Contract, reason: str) -> str:
        return (
            f"the registry at {self.address} cannot hold {contract.topic} version {contract.version} "
            f"under id {contract.id}: {reason}. "
            "Ids come from lock.json: use a registry of our own, or one that allows mode IMPORT"
        )

    def _import_contract(self, subject: str, contract: Contract) -> int | None:
        """Register with the lock file's id in mode IMPORT; return None where the registry has no such mode."""
        mode = f"/mode/{quote(subject, safe='')}"
        try:
            self._request("PUT", f"{mode}?force=true", {"mode": "IMPORT"})
        except RegistryError:
            return None
        try:
            body = {"schema": json.dumps(contract.schema), "schemaType": "AVRO", "id": contract.id}
            return int(self._request("POST", f"/subjects/{quote(subject, safe='')}/versions", body)["id"])
        finally:
            self._request("PUT", mode, {"mode": "READWRITE"})

    def _register_contract(self, subject: str, contract: Contract) -> int:
        body = {"schema": json.dumps(contract.schema), "schemaType": "AVRO"}
        return int(self._request("POST", f"/subjects/{quote(subject, safe='')}/versions", body)["id"])

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, self._headers, method=method)  # noqa: S310 - http(s) only, checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310 - as above
                content: dict[str, Any] = json.loads(answer.read(MAX_ANSWER_BYTES))
                return content
        except urllib.error.HTTPError as error:
            raise self._request_error(error) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConfigError(
                f"the schema registry at {self.address} does not answer as one ({type(reason).__name__}): "
                "is it running, and is HEADWATER_SCHEMA_REGISTRY right?"
            ) from None

    def _request_error(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in (401, 403):
            return ConfigError(
                f"the schema registry at {self.address} wants a user and password: put them in HEADWATER_SCHEMA_REGISTRY"
            )
        try:
            body = json.loads(error.read(MAX_ANSWER_BYTES))
            return RegistryError(error.code, int(body["error_code"]), str(body["message"])[:300])
        except (ValueError, KeyError, TypeError):
            return RegistryError(error.code, error.code, "no reason given")


def subject_of(contract: Contract) -> str:
    """Return the subject's name by Confluent's TopicNameStrategy."""
    return f"{contract.topic}-value"
