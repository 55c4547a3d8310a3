"""Text files are read with clear errors and written whole."""

import codecs
from pathlib import Path

import pytest

from kvmgan.errors import UndecodableError, UserError
from kvmgan.files import decode_text, read_json, read_lines, write_text

TEXT = "a red bird\nein grüner Vogel\n一只鸟 𓅿\n"


def test_read_lines_drops_blank_lines_whatever_system_ended_them(tmp_path: Path) -> None:
    """Ends of Unix, Windows and the old Mac; U+FFFD, as in CUB's captions, and U+2028 stay in their line."""
    (tmp_path / "a.txt").write_bytes(" one \r\n\n two\ufffd\ufffd\rthree\u2028\x0b\x85four\n\n".encode())
    assert read_lines(tmp_path / "a.txt", "lines") == ["one", "two\ufffd\ufffd", "three\u2028\x0b\x85four"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_decoded_by_its_mark(tmp_path: Path, encoding: str) -> None:
    """The mark itself is no text; JSON begins with one at times, too."""
    (tmp_path / "a.txt").write_text(TEXT, encoding=encoding)
    (tmp_path / "a.json").write_text('["ü"]', encoding=encoding)
    assert read_lines(tmp_path / "a.txt", "lines") == TEXT.splitlines()
    assert read_json(tmp_path / "a.json", "letters") == ["ü"]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE], ids=["utf-16-be", "utf-32-be"])
def test_big_endian_marks(mark: bytes) -> None:
    """Python writes only those of the machine's own order."""
    encoding = "utf-16-be" if len(mark) == 2 else "utf-32-be"
    assert decode_text(mark + TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "gb18030", "latin-1"])
def test_another_encoding_is_refused_or_named(tmp_path: Path, encoding: str) -> None:
    """Never letters with holes between them, nor replacement characters; what is UTF-8 is read so even then."""
    text = TEXT if encoding != "latin-1" else "ein grüner Vogel"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(UndecodableError, match=r"a\.txt is no text in UTF-8 .*: it should hold the captions"):
        read_lines(tmp_path / "a.txt", "the captions")
    assert read_lines(tmp_path / "a.txt", "the captions", encoding) == text.splitlines()
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    assert read_lines(tmp_path / "a.txt", "the captions", encoding) == TEXT.splitlines()


@pytest.mark.parametrize("content", [b"\xff\xfea", b"a\0b", b"\xc3", b"\x00"])
def test_what_no_named_encoding_helps_is_refused(tmp_path: Path, content: bytes) -> None:
    """Half a letter behind a mark, null characters, UTF-8 that is cut short."""
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UndecodableError):
        read_lines(tmp_path / "a.txt", "the captions", "ascii")


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
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json", "numbers")


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Text that cannot be written raises, keeps what was there and leaves no temporary file."""
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_text(target, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
