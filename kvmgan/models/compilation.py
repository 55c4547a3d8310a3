"""Networks compiled in place by `torch.compile`."""

import inspect

import torch
from torch import nn


def compile_network(network: nn.Module) -> None:
    """Compile ``network``'s forward when it is first called; parameters, their names and checkpoints stay as they are.

    Torch counts the graphs of a piece of code and runs it eagerly, with a warning, from the ninth on; discriminators of
    several sizes share theirs. Where torch can (2.14), each network therefore has a count of its own.
    """
    isolates = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    network.compile(**({"isolate_recompiles": True} if isolates else {}))
