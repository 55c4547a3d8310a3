"""Whether networks are still usable: a NaN in one weight makes all of its outputs NaN."""

from torch import nn


def is_finite(*networks: nn.Module) -> bool:
    """Whether no weight or buffer of the networks is NaN or infinite; waits for their device."""
    return all(bool(tensor.isfinite().all()) for network in networks for tensor in network.state_dict().values())
