"""Builds OpenAPI 3.1 documents from operations and pydantic models. Pure.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

OPENAPI = "3.1.0"
REFERENCE = "#/components/schemas/{model}"
JSON = "application/json"


class ResponseBody(NamedTuple):
    """What an operation answers with one status."""

    description: str
    media_type: str = ""
    """Empty where the answer has no body."""
    schema: Mapping[str, Any] | None = None


class ApiOperation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    summary: str
    responses: Mapping[int, ResponseBody]
    tag: str = ""
    body: Mapping[str, Any] | None = None
    """JSON Schema of the request's body."""
    security: Sequence[str] = ()
    """Names of security schemes, each of which is enough."""


def refer_to(model: type[BaseModel]) -> dict[str, Any]:
    """Return a reference to the schema of a model."""
    return {"$ref": REFERENCE.format(model=model.__name__)}


def list_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of an array of a model's objects."""
    return {"type": "array", "items": refer_to(model)}


def build_document(
    info: Mapping[str, str],
    operations: Iterable[ApiOperation],
    models: Sequence[type[BaseModel]],
    security_schemes: Mapping[str, Any],
    base_path: str = "",
) -> dict[str, Any]:
    """Return the document. `info`: title, version and description; `base_path`: what stands in front of every path."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    return {
        "openapi": OPENAPI,
        "info": dict(info),
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {}), "securitySchemes": dict(security_schemes)},
    }


def _describe(operation: ApiOperation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}_{operation.path.strip('/').replace('/', '_')}",
        "responses": {str(status): _describe_response(response) for status, response in sorted(operation.responses.items())},
    }
    if operation.tag:
        described["tags"] = [operation.tag]
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": dict(operation.body)}}}
    if operation.security:
        described["security"] = [{name: []} for name in operation.security]
    return described


def _describe_response(response: ResponseBody) -> dict[str, Any]:
    described: dict[str, Any] = {"description": response.description}
    if response.media_type:
        described["content"] = {response.media_type: {"schema": dict(response.schema or {})}}
    return described


__all__ = ["JSON", "ApiOperation", "ResponseBody", "build_document", "list_of", "refer_to"]
