"""What torch.compile is told about functions that it can't trace."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def traced_as_constant(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, which imports all of the compiler: the mark that it sets, and no more.

    torch.compile calls the function while it traces, and takes what it returns as a constant.
    """
    function._dynamo_marked_constant = True
    return function
