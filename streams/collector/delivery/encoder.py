"""Encodes records of `events.raw`: the bytes of `schemas.codec.encode` after `Boundary.check`, in a third of their time."""

from schemas.boundary import Boundary
from schemas.codec import Record, encode
from schemas.fast.flat_encoder import flat_record_encoder
from schemas.registry import Contract
from streams.collector.normalise import KNOWN


class EventEncoder:
    """Encoder of the records of one contract version.

    The normaliser builds the known fields with the contract's types, so they need no check. Values of fields that the contract
    has gained are the sender's: records with such fields are checked.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._boundary = Boundary(contract)
        self._known = sum(name in KNOWN for name in contract.names)
        try:
            self._encode_flat = flat_record_encoder(contract.parsed, contract.header)
        except ValueError:  # a field of a type that only the codec knows
            self._encode_flat = self.encode_checked

    def encode(self, record: Record) -> bytes:
        """Return the framed record. ContractViolation, or ValueError, where it does not fit."""
        if len(record) > self._known:
            return self.encode_checked(record)
        try:
            return self._encode_flat(record)
        except (AttributeError, TypeError, ValueError):  # half a surrogate pair, which has no UTF-8: the check names its field
            return self.encode_checked(record)

    def encode_checked(self, record: Record) -> bytes:
        """Return the same, after a check of every field."""
        return encode(self._contract, self._boundary.check(record))


__all__ = ["EventEncoder"]
