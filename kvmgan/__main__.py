"""One name for all commands: ``kvmgan train``, or ``python -m kvmgan train``, is ``python -m kvmgan.train``."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from kvmgan.code_version import code_version
from kvmgan.command_line import run_command
from kvmgan.errors import UserError

COMMANDS = {
    "train": ("kvmgan.train", "draw or read data, pretrain, train, judge"),
    "sample": ("kvmgan.sample", "draw pictures of captions"),
    "evaluate": ("kvmgan.evaluate", "compute metrics of runs"),
    "pretrain": ("kvmgan.pretrain", "pretrain the encoders alone"),
    "data": ("kvmgan.data.__main__", "unpack data, look at it, keep it decoded, write it as shards"),
    "report": ("kvmgan.report", "show runs on one page"),
    "interop": ("kvmgan.interop.__main__", "convert AttnGAN's and DM-GAN's released weights, and back"),
}
"""By the name of a command its module and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names with the words after it; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        # Imported when it is asked for: each takes its time.
        return importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
    return run_command(_answer, words)


def _answer(words: Sequence[str]) -> None:
    """What isn't a command: help, the version, a mistake."""
    name = words[0] if words else "--help"
    if name in ("--help", "-h"):
        print("usage: kvmgan COMMAND ...\n")
        for command, (_, purpose) in COMMANDS.items():
            print(f"  {command:10}{purpose}")
        print("\nkvmgan COMMAND --help lists its options, kvmgan --version says which code this is")
    elif name == "--version":
        print(f"kvmgan {code_version()}")
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown command {name!r}{hint}: choose one of {', '.join(COMMANDS)}; see kvmgan --help")


if __name__ == "__main__":
    sys.exit(main())
