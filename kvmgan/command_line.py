"""What the commands share: parsing with one-line errors, and exit statuses."""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from kvmgan.config import Options, flatten
from kvmgan.config_file import load_options
from kvmgan.errors import UserError
from kvmgan.presets import preset_options
from kvmgan.runs.interruption import Interrupted

Command = TypeVar("Command")


def parse(kind: type[Command], arguments: Sequence[str], *, prog: str, default: Command | None = None) -> Command:
    """Fill the dataclass ``kind`` from command-line words.

    Raises:
        UserError: one line, for an unknown option or a value that doesn't fit.
        SystemExit: after ``--help``.
    """
    complaint = io.StringIO()
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            command, unknown = tyro.cli(
                kind,
                args=list(arguments),
                prog=prog,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
                **extra,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(complaint.getvalue(), prog)) from None
    if unknown:
        raise UserError(_unknown(unknown, command, prog))
    return command


def parse_one_of(commands: Mapping[str, type], arguments: Sequence[str], *, prog: str) -> object:
    """Fill the dataclass of ``commands`` that the first word names from the words after it.

    Raises:
        UserError: for another first word, or none; and as :func:`parse` does.
    """
    name, *rest = arguments or ["none"]
    if name not in commands:
        names = " or ".join(commands)
        raise UserError(f"{prog} takes the command {names}, got {name}: see {prog} {next(iter(commands))} --help")
    return parse(commands[name], rest, prog=f"{prog} {name}")


def peek(arguments: Sequence[str], option: str) -> str | None:
    """The value of ``option`` among the words, where it decides the defaults of all others; None if it isn't given."""
    for index, word in enumerate(arguments):
        if word == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def starting_options(arguments: Sequence[str]) -> Options:
    """The options that ``--config`` or ``--preset`` among the words gives, from which all others start.

    Raises:
        UserError: if both are there, or the file or the preset doesn't exist.
    """
    config, preset = peek(arguments, "--config"), peek(arguments, "--preset")
    if config is None:
        return preset_options(preset or "birds-tiny")
    if preset is not None:
        raise UserError("--preset can't be given with --config: the file names every setting")
    return load_options(Path(config), "--config names a config.yaml or what --dry-run printed")


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/kvmgan``, or ``~/.cache/kvmgan``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvmgan"


_BUG = (
    "this is a mistake in kvmgan and not yours: please report it with the lines above, the command, and what "
    "`python -m torch.utils.collect_env` prints"
)


# What the machine may say of any file: full, over quota, read-only, broken, no longer there, too many open.
_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EFBIG,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
}


def run_command(action: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn its end into an exit status: 0, 2 for a :class:`UserError` or a machine that fails, 128 +
    signal when stopped, 70 (EX_SOFTWARE) for a mistake of the package, with its traceback and how to report it.
    """
    for stream in (sys.stdout, sys.stderr):
        # A caption or a path that the terminal can't show never ends a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        action(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return _fail(str(error))
    except Interrupted as stop:
        print(f"stopped by {signal.Signals(stop.signum).name}: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # As a program does that a closed pipe kills; what Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stopped: nothing reads the output any longer", file=sys.stderr)
        return 128 + signal.SIGPIPE
    except Exception as error:
        # Imported here, as torch is by it: a command whose words are wrong ends before that.
        from kvmgan.data.workers import loss_of_worker

        if (lost := loss_of_worker(error)) is not None:
            return _fail(str(lost))
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            return _fail(f"{error.strerror}: {error.filename or 'it is not known which file'}")
        _tell_launcher(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        print(_BUG, file=sys.stderr)
        return 70
    return 0


def _fail(message: str) -> int:
    """Print an error as one line; the exit status."""
    line = f"error: {' '.join(message.split())}"
    print(line, file=sys.stderr)
    _tell_launcher(line)
    return 2


def _tell_launcher(message: str) -> None:
    """Leave the message where torchrun looks for it: the first process's that failed ends its own report."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")


def _one_line(complaint: str, prog: str) -> str:
    """What tyro complains about, without the frame, colours and title that it draws according to the terminal."""
    framed = "╭" in complaint
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[\d;]*m", "", complaint).splitlines():
        text = line.strip("│ ")
        if text and not text.strip("─-"):
            sections.append([])
        elif text and text[0] not in "╭╰":
            sections[-1].append(text)
    # Without a frame the title stands above a rule of its own.
    wanted = 0 if framed else 1
    message = " ".join(sections[wanted]) if len(sections) > wanted else "bad arguments"
    return f"{message.rstrip('.')}; see {prog} --help"


def _unknown(words: Sequence[str], command: object, prog: str) -> str:
    word = next((word for word in words if word.startswith("-")), None)
    if word is None:
        return f"unexpected argument {words[0]!r}; see {prog} --help"
    names = ["--" + name.removeprefix("options.").replace("_", "-") for name in flatten(command)]
    option = word.split("=")[0]
    group = re.match(r"--[\w-]+\.", option)
    near = [name for name in names if name.startswith(option)] or difflib.get_close_matches(option, names, 3, 0.7)
    near = near or [name for name in names if group and name.startswith(group[0])]
    choices = near or sorted({name.split(".")[0] + (".*" if "." in name else "") for name in names})
    return f"unknown option {option}: choose among {', '.join(choices)}; see {prog} --help"
