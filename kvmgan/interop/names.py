"""What parameters are called in the released AttnGAN and DM-GAN code, by their names here."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The beginning of a name here, of the released name, and what is added to each number in it.
_GENERATOR = [
    (r"conditioning\.fc", "ca_net.fc", ()),
    (r"initial\.fc", "h_net1.fc.0", ()),
    (r"initial\.norm", "h_net1.fc.1", ()),
    (r"initial\.blocks\.(\d+)\.conv", "h_net1.upsample{}.1", (1,)),
    (r"initial\.blocks\.(\d+)\.norm", "h_net1.upsample{}.2", (1,)),
    (r"heads\.(\d+)\.conv", "img_net{}.img.0", (1,)),
]
# The same within a refinement stage.
_STAGE = [
    (r"memory\.gate_word", "A", ()),
    (r"memory\.gate_image", "B", ()),
    (r"memory\.write_word", "M_w.0", ()),
    (r"memory\.write_image", "M_r.0", ()),
    (r"memory\.key", "key.0", ()),
    (r"memory\.value", "value.0", ()),
    (r"memory\.response_gate", "response_gate.0", ()),
    (r"attention\.conv_context", "att.conv_context", ()),
    (r"upsample\.conv", "upsample.1", ()),
    (r"upsample\.norm", "upsample.2", ()),
    (r"residual\.(\d+)\.conv1", "residual.{}.block.0", (0,)),
    (r"residual\.(\d+)\.norm1", "residual.{}.block.1", (0,)),
    (r"residual\.(\d+)\.conv2", "residual.{}.block.3", (0,)),
    (r"residual\.(\d+)\.norm2", "residual.{}.block.4", (0,)),
]
_GENERATOR += [(rf"refinements\.(\d+)\.{mine}", f"h_net{{}}.{theirs}", (2, *add)) for mine, theirs, add in _STAGE]
_SPECTRAL = {
    "parametrizations.weight.original": "module.weight_bar",
    "parametrizations.weight.0._u": "module.weight_u",
    "parametrizations.weight.0._v": "module.weight_v",
    "bias": "module.bias",
}
_HEADS = {"unconditional_head": "UNCOND_DNET.outlogits.0", "conditional_head": "COND_DNET.outlogits.0"}


def released_generator_names(names: Iterable[str]) -> dict[str, str]:
    """The released name of each name of :class:`kvmgan.models.generator.Generator`'s state."""
    return {name: _generator_name(name) for name in names}


def released_discriminator_names(names: Iterable[str]) -> dict[str, str]:
    """DM-GAN's name of each name of :class:`kvmgan.models.discriminator.Discriminator`'s state."""
    names = list(names)
    layers = {name.split(".")[1] for name in names if name.startswith("trunk.")}
    trunk = _trunk_names(len(layers))
    return {name: _discriminator_name(name, trunk) for name in names}


def _generator_name(name: str) -> str:
    for mine, theirs, added in _GENERATOR:
        match = re.match(rf"{mine}\.", name)
        if match is not None:
            numbers = (int(number) + more for number, more in zip(match.groups(), added, strict=True))
            return f"{theirs.format(*numbers)}.{name[match.end() :]}"
    raise KeyError(name)


def _trunk_names(layers: int) -> list[str]:
    """Of the convolutions from 64, 128 or 256 pixels down to 4: halving ones, then those that halve the channels."""
    # Four halvings at 64 pixels; each further one brings another convolution that takes its channels back.
    further = (layers - 4) // 2
    names = [f"img_code_s16.{2 * number}" for number in range(4)]
    names += [f"img_code_s{2 ** (5 + number)}.0" for number in range(further)]
    return names + [f"img_code_s{2 ** (4 + further)}_{number + 1}.0" for number in range(further)]


def _discriminator_name(name: str, trunk: list[str]) -> str:
    head, rest = name.split(".", 1)
    if head == "trunk":
        layer, rest = rest.split(".", 1)
        # Every second module of the trunk is an activation.
        return f"{trunk[int(layer) // 2]}.{_SPECTRAL[rest]}"
    return f"COND_DNET.jointConv.0.{_SPECTRAL[rest]}" if head == "joint" else f"{_HEADS[head]}.{rest}"
