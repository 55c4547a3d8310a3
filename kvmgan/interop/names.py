"""What parameters are called in the released AttnGAN and DM-GAN code, by their names here."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A prefix of a name here, and of the released one; {} is the number in it plus the one before it.
_GENERATOR = {
    r"conditioning\.fc": "ca_net.fc",
    r"initial\.fc": "h_net1.fc.0",
    r"initial\.norm": "h_net1.fc.1",
    r"initial\.blocks\.(\d+)\.conv": (1, "h_net1.upsample{}.1"),
    r"initial\.blocks\.(\d+)\.norm": (1, "h_net1.upsample{}.2"),
    r"heads\.(\d+)\.conv": (1, "img_net{}.img.0"),
    r"refinements\.(\d+)(?=\.)": (2, "h_net{}"),
}
# The rest of a name of a refinement stage.
_STAGE = {
    r"memory\.gate_word": "A",
    r"memory\.gate_image": "B",
    r"memory\.write_word": "M_w.0",
    r"memory\.write_image": "M_r.0",
    r"memory\.key": "key.0",
    r"memory\.value": "value.0",
    r"memory\.response_gate": "response_gate.0",
    r"attention\.conv_context": "att.conv_context",
    r"upsample\.conv": "upsample.1",
    r"upsample\.norm": "upsample.2",
    r"residual\.(\d+)\.conv1": (0, "residual.{}.block.0"),
    r"residual\.(\d+)\.norm1": (0, "residual.{}.block.1"),
    r"residual\.(\d+)\.conv2": (0, "residual.{}.block.3"),
    r"residual\.(\d+)\.norm2": (0, "residual.{}.block.4"),
}
_SPECTRAL = {
    "parametrizations.weight.original": "module.weight_bar",
    "parametrizations.weight.0._u": "module.weight_u",
    "parametrizations.weight.0._v": "module.weight_v",
    "bias": "module.bias",
}
_HEADS = {"unconditional_head": "UNCOND_DNET.outlogits.0", "conditional_head": "COND_DNET.outlogits.0"}


def released_generator_names(names: Iterable[str]) -> dict[str, str]:
    """The released name of each name of :class:`kvmgan.models.generator.Generator`'s state."""
    return {name: _translated(name, _GENERATOR, _STAGE) for name in names}


def released_discriminator_names(names: Iterable[str]) -> dict[str, str]:
    """DM-GAN's name of each name of :class:`kvmgan.models.discriminator.Discriminator`'s state."""
    names = list(names)
    layers = sorted({int(name.split(".")[1]) for name in names if name.startswith("trunk.")})
    return {name: _discriminator_name(name, _trunk_names(len(layers))) for name in names}


def _translated(name: str, *tables: dict[str, str | tuple[int, str]]) -> str:
    """The name by the first table, and what is left of it by the next."""
    table, *others = tables
    for pattern, released in table.items():
        match = re.match(pattern, name)
        if match is None:
            continue
        head = released if isinstance(released, str) else released[1].format(int(match[1]) + released[0])
        rest = name[match.end() :].removeprefix(".")
        inner = others and isinstance(released, tuple) and released[1] == "h_net{}"
        return f"{head}.{_translated(rest, *others) if inner else rest}"
    raise KeyError(name)


def _trunk_names(layers: int) -> list[str]:
    """Of the convolutions from 64, 128 or 256 pixels down to 4: halving ones, then those that halve the channels."""
    # Four halvings at 64 pixels; each further one brings another convolution that takes its channels back.
    further = (layers - 4) // 2
    names = [f"img_code_s16.{2 * number}" for number in range(4)]
    names += [f"img_code_s{2 ** (5 + number)}.0" for number in range(further)]
    return names + [f"img_code_s{2 ** (4 + further)}_{number + 1}.0" for number in range(further)]


def _discriminator_name(name: str, trunk: list[str]) -> str:
    layer, rest = (name.split(".", 2)[1], name.split(".", 2)[2]) if name.startswith("trunk.") else (None, None)
    if layer is not None:
        return f"{trunk[int(layer) // 2]}.{_SPECTRAL[rest]}"
    head, rest = name.split(".", 1)
    return f"COND_DNET.jointConv.0.{_SPECTRAL[rest]}" if head == "joint" else f"{_HEADS[head]}.{rest}"
