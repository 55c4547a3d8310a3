"""Text files are read with clear errors and written whole."""

from pathlib import Path

import pytest

from kvmgan.errors import UserError
from kvmgan.files import read_json, read_lines, write_text


def test_read_lines_drops_blank_lines_and_survives_odd_bytes(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 become U+FFFD, as in the CUB captions."""
    (tmp_path / "a.txt").write_bytes(b" one \r\n\n two\xff\xfe\n")
    assert read_lines(tmp_path / "a.txt", "lines") == ["one", "two\ufffd\ufffd"]


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    """The message names the path and what should be there."""
    with pytest.raises(UserError, match=r"a\.txt is missing: it should hold the captions"):
        read_lines(tmp_path / "a.txt", "the captions")
    with pytest.raises(UserError, match="cannot be read"):
        read_lines(tmp_path, "the captions")


def test_broken_json(tmp_path: Path) -> None:
    """A JSON file that is cut short is named."""
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json", "numbers")


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Text that cannot be written raises, keeps what was there and leaves no temporary file."""
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_text(target, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
