"""Forward passes that leave no trace in a module's buffers."""

from torch import nn


class CopiedBuffers:
    """While it is entered, a module has copies of its buffers, which are then thrown away.

    For a pass that comes again, so that running statistics don't count the same pictures twice.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.kept = [
            (part, name, buffer) for part in self.module.modules() for name, buffer in part.named_buffers(recurse=False)
        ]
        for part, name, buffer in self.kept:
            setattr(part, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for part, name, buffer in self.kept:
            setattr(part, name, buffer)
