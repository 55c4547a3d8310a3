"""Pickles of data are read, and nothing in them is called."""

from __future__ import annotations

import codecs
import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from kvmgan.data.readers.safe_pickle import load_pickle
from kvmgan.errors import UserError


class _Calls:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_comes_back(tmp_path: Path, protocol: int) -> None:
    """Of every protocol; NumPy's numbers and arrays, too."""
    content = [[1, 2**40, -3], {"a": "ü", 1: (True, None, 2.5)}, b"\xff", np.int64(7)]
    assert load_pickle(_write(tmp_path / "a.pickle", content, protocol), "data") == content
    numbers = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for array in (numbers, numbers.T, numbers.transpose(1, 2, 0), np.array(["a", "bc"]), np.zeros((0, 2))):
        found = load_pickle(_write(tmp_path / "b.pickle", [array], protocol), "arrays")[0]
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)


def test_byte_strings_of_python_2(tmp_path: Path) -> None:
    """Its text is bytes: Latin-1 by default, or left as it is."""
    (tmp_path / "a.pickle").write_bytes(b"\x80\x02U\x03a\xfcb.")
    assert load_pickle(tmp_path / "a.pickle", "text") == "aüb"
    assert load_pickle(tmp_path / "a.pickle", "text", strings="bytes") == b"a\xfcb"


@pytest.mark.parametrize("strings", ["latin1", "bytes"])
def test_numbers_of_numpy_that_python_2_wrote(tmp_path: Path, strings: str) -> None:
    """int64 7, whose type and bytes are text there: an opcode at a time, as its pickler writes them."""
    dtype = b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    number = b"cnumpy.core.multiarray\nscalar\n" + dtype + b"U\x08\xfe\x00\x00\x00\x00\x00\x00\x00\x86R"
    (tmp_path / "a.pickle").write_bytes(b"\x80\x02" + number + b".")
    found = load_pickle(tmp_path / "a.pickle", "a number", strings=strings)
    assert found == 254 and found.dtype == np.int64


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (_Calls(os.system, "touch called"), "system"),
        (_Calls(eval, "open('called', 'w')"), "eval"),
        (_Calls(getattr, "a", "upper"), "getattr"),
        (collections.OrderedDict(a=1), "OrderedDict"),
        (np.load, "load"),
        (_Calls(codecs.encode, "a", "rot13"), "the codec rot13"),
        (Path("a"), "pathlib"),
    ],
    ids=["system", "eval", "getattr", "OrderedDict", "a function", "codec", "Path"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_asks_for_more_than_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, name: str, protocol: int
) -> None:
    """Deep in a list as well; the name is said and nothing is called."""
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path / "a.pickle", [1, [content]], protocol)
    with pytest.raises(UserError, match=rf"a\.pickle asks for .*{name}.*: it isn't read"):
        load_pickle(path, "data")
    assert not (tmp_path / "called").exists()


def test_names_within_arrays_are_refused_too(tmp_path: Path) -> None:
    """An array of objects is a pickle in a pickle."""
    path = _write(tmp_path / "a.pickle", np.array([_Calls(os.system, "touch called")], dtype=object))
    with pytest.raises(UserError, match=r"asks for posix\.system|asks for nt\.system"):
        load_pickle(path, "data")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2, 3], 2)[:-3],
        b"\x80\x63.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02" + b"(" * 5 + b"0" * 9 + b".",
        # ndarray itself called for an array of a size that no memory holds.
        b"\x80\x02cnumpy\nndarray\n\x8a\x08" + struct.pack("<q", 2**50) + b"\x85R.",
        b"\x80\x02P12\n.",
    ],
    ids=["empty", "text", "cut short", "protocol 99", "length", "stack", "ndarray", "persistent"],
)
def test_a_damaged_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    """One line with the file and what it should hold or asks for."""
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pickle (is a damaged pickle .*: it should hold names|asks for)"):
        load_pickle(tmp_path / "a.pickle", "names")


def test_an_array_takes_no_memory_for_a_shape_it_only_names(tmp_path: Path) -> None:
    """A shape of 2^50 numbers and a state that doesn't fill it."""
    reconstruct, arguments, state = np.zeros(1, dtype=np.int8).__reduce__()

    class Huge:
        def __reduce__(self):
            return reconstruct, (arguments[0], (2**50,), arguments[2]), (state[0], (2**50,), *state[2:])

    with pytest.raises(UserError, match="damaged pickle"):
        load_pickle(_write(tmp_path / "a.pickle", Huge()), "data")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    """The message names the file and what it should hold."""
    with pytest.raises(UserError, match=r"a\.pickle is missing: it should hold names"):
        load_pickle(tmp_path / "a.pickle", "names")
    with pytest.raises(UserError, match="cannot be read"):
        load_pickle(tmp_path, "names")
