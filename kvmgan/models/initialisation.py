"""How the networks' weights start (AttnGAN and DM-GAN, released code)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def initialise_weights(module: nn.Module) -> None:
    """Initialise one module as AttnGAN does; use with ``model.apply(initialise_weights)``.

    Convolutions and linear layers get orthogonal weights, linear biases zero, and batch
    normalisation a scale from N(1, 0.02) and a shift of zero. Biases of convolutions stay as they are.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        _fill(module, "weight", nn.init.orthogonal_)
        if isinstance(module, nn.Linear) and module.bias is not None:
            _fill(module, "bias", nn.init.zeros_)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        _fill(module, "weight", lambda scale: nn.init.normal_(scale, 1.0, 0.02))
        _fill(module, "bias", nn.init.zeros_)


@torch.no_grad()
def _fill(module: nn.Module, name: str, fill: Callable[[Tensor], Tensor]) -> None:
    """Fill a module's tensor in place, or what it is computed from where it has a parametrisation."""
    if not parametrize.is_parametrized(module, name):
        fill(getattr(module, name))
        return
    # The tensor itself is computed anew at every read: what is written into it is lost.
    setattr(module, name, fill(torch.empty_like(getattr(module, name))))
    parametrization = module.parametrizations[name]
    training = parametrization.training
    # Spectral norm's vectors follow the weight in training mode alone, once a read: this one makes them belong to it.
    parametrization.train()()
    parametrization.train(training)
