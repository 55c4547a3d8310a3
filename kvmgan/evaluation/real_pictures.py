"""What is seen in all real test pictures, each once; what large networks see is kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from kvmgan.data.batches import evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import DECODING_VERSION
from kvmgan.errors import UserError
from kvmgan.files import file_digest
from kvmgan.metrics.seen import Seen, Watcher, see
from kvmgan.parallel import processes
from kvmgan.parallel.shares import own_share, together
from kvmgan.storage.tensor_file import load_tensors, save_tensors

# Raise it when an extractor comes to see other numbers in the same pictures.
EXTRACTION_VERSION = 1


def see_real(
    dataset: TextImageDataset,
    watchers: Sequence[Watcher],
    kept: Sequence[Watcher],
    *,
    batch_size: int,
    device: torch.device,
    cache: Path | None,
) -> Seen:
    """Let the watchers look at every test picture: centre crop, largest size, 8 bits; processes share them out.

    Args:
        kept: those of ``watchers`` whose sight is read from ``cache``, or looked up once and written there; it is
            named by a hash of the files' bytes, how they are decoded and cropped, and the network's weights.
        cache: None keeps nothing.
    """
    paths = {}
    if cache is not None and kept:
        content = _content(dataset)
        paths = {one.name: cache / f"real-{one.name}-{_key(content, one)}.safetensors" for one in kept}
    seen: Seen = {}
    for path in [path for path in paths.values() if path.is_file()]:
        try:
            seen |= load_tensors(path)
        except UserError:
            print(f"note: {path} is damaged: the real pictures are looked at again")
    # Machines may have caches of their own: what one process lacks, all look up, each in its share of the pictures.
    missing = [one for one in watchers if processes.agreed(int(not _saw(seen, one)))]
    if missing:
        rows = own_share(torch.arange(len(dataset))).tolist()
        batches = evaluation_batches(dataset, batch_size, rows=rows)
        seen |= together(see((batch.pixels.to(device) for batch in batches), missing))
    for one in missing:
        if one.name in paths and processes.leads():
            save_tensors(paths[one.name], _saw(seen, one))
    return seen


def _saw(seen: Seen, watcher: Watcher) -> Seen:
    """What a watcher saw; nothing if it hasn't looked."""
    return {name: values for name, values in seen.items() if name.startswith(f"{watcher.name}.")}


def _content(dataset: TextImageDataset) -> str:
    """Hash of the bytes of every picture, of its box, of the size and of how files are decoded."""
    digest = hashlib.sha256(repr((dataset.sizes[-1], DECODING_VERSION, EXTRACTION_VERSION)).encode())
    for record in dataset.records:
        digest.update(f"{file_digest(record.image_path)} {record.box}".encode())
    return digest.hexdigest()


def _key(content: str, watcher: Watcher) -> str:
    return hashlib.sha256(f"{content} {watcher.name} {watcher.weights}".encode()).hexdigest()[:16]
