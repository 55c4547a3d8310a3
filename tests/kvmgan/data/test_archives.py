"""Archives: whole into the folder, or refused by one line with nothing written."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from kvmgan.data.__main__ import main
from kvmgan.data.archives import unpack
from kvmgan.errors import UserError

GOOD = {"birds/images/1.jpg": b"picture", "birds/text/1.txt": b"a bird", "README": b"read"}


def make_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


MAKERS = [
    lambda folder, files: make_tar(folder / "a.tgz", files),
    lambda folder, files: make_tar(folder / "a.tar.xz", files, mode="w:xz"),
    lambda folder, files: make_tar(folder / "a.tar", files, mode="w"),
    lambda folder, files: make_zip(folder / "a.zip", files),
]


@pytest.mark.parametrize("make", MAKERS)
def test_archives_are_unpacked_beside_what_is_there(tmp_path, make, capsys):
    target = tmp_path / "data"
    (target / "other").mkdir(parents=True)
    assert main(["unpack", str(make(tmp_path, GOOD)), "--into", str(target)]) == 0
    assert {name: (target / name).read_bytes() for name in GOOD} == GOOD
    assert sorted(path.name for path in target.iterdir()) == ["README", "birds", "other"]
    assert capsys.readouterr().out.splitlines() == [f"unpacked: {target / name}" for name in ("README", "birds")]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "name", ["../evil", "birds/../../evil", "/tmp/kvmgan-evil", "..\\evil", "C:\\evil", "C:evil", "birds/.."]
)
def test_paths_that_leave_the_folder_are_refused_before_anything_is_written(tmp_path, make, name):
    """The good files that stand before it in the archive aren't written either."""
    archive, target = make(tmp_path, GOOD | {name: b"evil"}), tmp_path / "deep" / "data"
    with pytest.raises(UserError, match="leaves the folder: nothing is unpacked"):
        unpack(archive, target)
    assert list(target.iterdir()) == []
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/kvmgan-evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "a.tar", GOOD, link("birds/link", "../../..", kind), mode="w")
    with pytest.raises(UserError, match="birds/link is a link or a device"):
        unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_link_in_a_zip_file_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="link is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "data")


@pytest.mark.parametrize("make", MAKERS)
def test_a_damaged_archive_leaves_nothing(tmp_path, make):
    archive = make(tmp_path, GOOD | {"birds/large": bytes(range(256)) * 4000})
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=r"can't be unpacked|no tar or zip archive"):
        unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "README").write_text("mine")
    with pytest.raises(UserError, match="README is there already"):
        unpack(make_zip(tmp_path / "a.zip", GOOD), target)
    assert [path.name for path in target.iterdir()] == ["README"] and (target / "README").read_text() == "mine"


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    """As a bomb of a few bytes would be, by what it says it holds."""
    monkeypatch.setattr("kvmgan.data.archives.shutil.disk_usage", lambda folder: type("", (), {"free": 5}))
    with pytest.raises(UserError, match=r"needs 0\.0 GiB unpacked"):
        unpack(make_zip(tmp_path / "a.zip", GOOD), tmp_path / "data")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no archive is named"),
        (["missing.tgz"], "missing.tgz is missing: it should be an archive"),
        (["."], ". is a folder: it should be an archive"),
        (["text.txt"], "text.txt is no tar or zip archive"),
    ],
)
def test_what_is_no_archive_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no archive")
    assert main(["unpack", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
