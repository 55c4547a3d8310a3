"""Pickles of data that others made: lists, dictionaries, text, numbers and arrays are built, and nothing is called."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from kvmgan.errors import MissingFileError, UserError

# What damaged pickles and those of other things raise.
DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)


class ForbiddenError(Exception):
    """A pickle asks for more than data."""


def load_pickle(path: Path, purpose: str, *, strings: str = "latin1") -> Any:
    """Return what `path` holds, built of lists, dictionaries, tuples, text, numbers and NumPy arrays.

    strings: encoding of the byte strings that Python 2 wrote; "bytes" leaves them.
    Raises `UserError` naming the file when it is missing or damaged, or names a function or class to be called.
    """
    try:
        with path.open("rb") as file:
            return _DataUnpickler(file, encoding=strings).load()
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing: it should hold {purpose}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it should hold {purpose}") from None
    except ForbiddenError as error:
        raise UserError(f"{path} asks for {error}, and a pickle of data has no need of it: it isn't read") from None
    except DAMAGED as error:
        raise UserError(f"{path} is a damaged pickle ({error}): it should hold {purpose}") from None


class _DataUnpickler(pickle.Unpickler):
    """Finds the few functions that arrays are pickled by."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 has its core elsewhere.
        place = module.replace("numpy._core", "numpy.core"), name
        if place not in _KNOWN:
            raise ForbiddenError(f"{module}.{name}")
        return _KNOWN[place]

    def persistent_load(self, pid: Any) -> Any:
        raise ForbiddenError(f"the persistent object {pid!r}")


def _empty_array(_kind: None, _shape: tuple[int, ...], _dtype: Any) -> np.ndarray:
    """What an array's state is put into; whatever shape a pickle names here, no memory is taken for it."""
    return np.empty(0, dtype=np.int8)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenError(f"the codec {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Empty bytes, as Python 3 writes them for Python 2."""
    return b""


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str, *axes: Any) -> np.ndarray:
    """An array as protocol 5 has it; ``axes``: their order, where they lie in another one in memory."""
    array = np.frombuffer(buffer, dtype)
    if order == "K" and axes and axes[0] is not None:
        return array.reshape(shape).transpose(axes[0])
    return array.reshape(shape, order=order)


_KNOWN = {
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    # Named by arrays and never called: it would make one of any size.
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
}
