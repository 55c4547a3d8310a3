"""The oldest PyTorch that kvmem runs on: the stable ABI that its extension is built on begins there."""

import torch

MINIMUM = (2, 11)


def require_torch(found: str = torch.__version__) -> None:
    """Raises ImportError where PyTorch (version string `found`) is older than 2.11."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in found.split(".")[:2])
    if (major, minor) < MINIMUM:
        required = ".".join(map(str, MINIMUM))
        raise ImportError(f"kvmem needs torch {required} or later, found torch {found}: upgrade torch to use kvmem")
