"""Released weights to a run of this package, and a checkpoint's networks to files under the released names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kvmgan.errors import UserError
from kvmgan.files import atomic_file, check_writable
from kvmgan.interop.conversion import ReleasedFiles, convert, export
from kvmgan.presets import preset_options
from kvmgan.training.checkpoint import load_checkpoint


def convert_released(files: ReleasedFiles, out: Path, *, preset: str, data_root: Path, legacy_mask: bool) -> None:
    """Make the run folder ``out`` of released files, to be judged and trained on with the data in ``data_root``.

    Raises:
        UserError: ``out`` exists, or a file is missing or isn't what it should be.
    """
    if out.exists():
        raise UserError(f"{out} exists: name a folder that doesn't")
    options = preset_options(preset)
    options = replace(options, name=out.name, data=replace(options.data, root=data_root))
    print(f"checkpoint: {convert(files, options, out, legacy_mask=legacy_mask)}")
    print(f"try:        python -m kvmgan.sample {out} 'a small bird with a red head and white wings'")


def export_released(source: Path, out: Path) -> None:
    """Write the networks of a run's newest checkpoint, or of the checkpoint ``source``, into the folder ``out``.

    Raises:
        UserError: there is no such checkpoint, it has no released form, the folder can't be written, or it has a file
            of such a name: nothing is written.
    """
    states = export(load_checkpoint(source))
    check_writable(out, "the folder")
    there = [name for name in states if (out / name).exists()]
    if there:
        raise UserError(f"{out} has {', '.join(there)} already: name a folder without them, or move them away")
    for name, state in states.items():
        with atomic_file(out / name) as temporary:
            torch.save(state, temporary)
        print(f"wrote: {out / name}")
