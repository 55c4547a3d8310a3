"""Files of published weights: in a folder, in torch's cache, or downloaded; whatever they hold, no code of it runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from kvmgan.errors import UserError
from kvmgan.storage.pth_file import load_pth


def at_hand(url: str, folder: Path) -> Path | None:
    """Where the file that ``url`` ends in lies: in ``folder`` or in torch's download cache; None if it isn't there."""
    name = url.rsplit("/", 1)[1]
    places = (folder / name, Path(torch.hub.get_dir()) / "checkpoints" / name)
    return next((path for path in places if path.is_file()), None)


def weights_file(url: str, folder: Path) -> Path:
    """The file that ``url`` ends in: where it is at hand, else downloaded into ``folder`` and checked by its hash.

    Raises:
        UserError: says which file is missing and where it goes; or that it holds more than tensors.
    """
    path = at_hand(url, folder)
    if path is None:
        path = folder / url.rsplit("/", 1)[1]
        folder.mkdir(parents=True, exist_ok=True)
        hashed = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), hashed and hashed[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} is missing and can't be downloaded ({error}): put {url} there") from None
    check_holds_tensors(path)
    return path


def check_holds_tensors(path: Path) -> None:
    """Read a file as torch's restricted unpickler does, for those who hand it to a library that doesn't.

    Raises:
        UserError: if it can't be read so.
    """
    try:
        load_pth(path, "weights")
    except UserError as error:
        raise UserError(f"{path} can't be read as weights ({error}): download it again") from None
