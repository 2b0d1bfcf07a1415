"""Field boundaries of a record's head, found without decoding: five times as fast as `schemas.codec.HeadReader`."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, cast

from schemas.codec import HEADER_BYTES, Undecodable, read_datum
from schemas.contract import Contract
from schemas.fast.kinds import MAPS, field_kind
from schemas.fast.primitives import STEPS, skip_blocks, skip_map_blocks, text_end


class HeadSlicer:
    """Finds the end of each field from `first_field` (the first by default) to `last_field`.

    Strings are not checked to be UTF-8, and bytes after the head are ignored, as `HeadReader` ignores them. Equal bytes are
    equal values, so slices of a head can be keys of caches.
    """

    def __init__(self, contract: Contract, last_field: str, first_field: str | None = None) -> None:
        begin = 0 if first_field is None else contract.names.index(first_field)
        end = contract.names.index(last_field) + 1
        self._walk = _compile_walk([field_kind(field["type"]) for field in contract.parsed["fields"][begin:end]])

    def ends(self, value: bytes, at: int = HEADER_BYTES) -> list[int]:
        """Return the offset after each field, where the first field begins at `at`. Raises Undecodable."""
        try:
            offsets = self._walk(value, at)
        except IndexError:
            raise Undecodable("broken datum: IndexError") from None
        if offsets[-1] > len(value):
            raise Undecodable("broken datum: EOFError")
        return offsets


def _compile_walk(kinds: Sequence[Any]) -> Callable[[bytes, int], list[int]]:
    """Return a generated function that walks over these fields: 1.4 times as fast as a loop that tests each field's kind.

    Its source depends on the kinds of the fields alone, never on data.
    """
    step = "at = at + step if (step := steps[value[at]]) else text_end(value, at)"
    lines = ["def walk(value, at):"]
    for place, kind in enumerate(kinds):
        if kind == "string":
            lines += [f" {step}"]
        elif kind in ("boolean", "double"):
            lines += [f" at += {1 if kind == 'boolean' else 8}"]
        elif kind == "long":
            lines += [" while value[at] > 127: at += 1", " at += 1"]
        elif kind in ("map", "array"):
            # Nearly always one block of fewer than 64 items, or none: walking it inline is 1.1 times as fast as a call.
            texts = "count" if kind == "map" else "count >> 1"
            lines += [
                " begin, count = at, value[at]", " at += 1", " if count:",
                "  if not count & 129:", f"   for _ in range({texts}): {step}",
                f"  at = skip_blocks(value, begin, {2 if kind == 'map' else 1}) if count & 129 or value[at] else at + 1",
            ]  # fmt: skip
        elif kind == MAPS:
            lines += [" at = skip_map_blocks(value, at) if value[at] else at + 1"]
        else:
            lines += [f" at = datum_end(value, at, kinds[{place}])"]
        lines += [f" end_{place} = at"]
    lines += [f" return [{', '.join(f'end_{place}' for place in range(len(kinds)))}]"]
    names: dict[str, Any] = {
        "steps": STEPS, "text_end": text_end, "skip_blocks": skip_blocks, "skip_map_blocks": skip_map_blocks,
        "datum_end": _datum_end, "kinds": kinds,
    }  # fmt: skip
    exec("\n".join(lines), names)  # noqa: S102 - the source holds kinds of fields only, no data
    return cast(Callable[[bytes, int], list[int]], names["walk"])


def _datum_end(value: bytes, at: int, schema: Any) -> int:
    stream = BytesIO(value)
    stream.seek(at)
    read_datum(stream, schema)
    return stream.tell()


__all__ = ["HeadSlicer"]
