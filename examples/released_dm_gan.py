"""The memory of a released DM-GAN generator (Zhu et al., CVPR 2019) as this layer.

`python examples/released_dm_gan.py netG_epoch_500.pth` reads the generator's file, makes the layers of both refinement
stages, and says what they have.
"""

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor

import kvmem

# Our names by the release's, within a stage: h_net2, h_net3.
NAMES = {
    "gate_word": "A",
    "gate_image": "B",
    "write_word": "M_w.0",
    "write_image": "M_r.0",
    "key": "key.0",
    "value": "value.0",
    "response_gate": "response_gate.0",
}


def memory_of(released: Mapping[str, Tensor], stage: str) -> kvmem.KVMemoryLayer:
    """The layer of a stage, "h_net2" or "h_net3", with the released weights.

    Its convolutions of size 1 are linear maps here; the release lets no gradient through the mean.
    Raises KeyError naming a weight that the file doesn't have.
    """
    # What was trained on several GPUs has "module." before every name.
    prefix = "module." if any(name.startswith("module.") for name in released) else ""
    weights = {}
    for mine, theirs in NAMES.items():
        name = f"{prefix}{stage}.{theirs}"
        weights[f"{mine}.weight"] = released[f"{name}.weight"].flatten(1)
        if f"{name}.bias" in released:
            weights[f"{mine}.bias"] = released[f"{name}.bias"]
    memory_channels, word_channels = weights["write_word.weight"].shape
    image_channels = weights["key.weight"].shape[0]
    layer = kvmem.KVMemoryLayer(image_channels, word_channels, memory_channels, detach_mean=True)
    layer.load_state_dict(weights)
    return layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="netG file of the release")
    released = torch.load(parser.parse_args().path, map_location="cpu", weights_only=True)
    for stage in ("h_net2", "h_net3"):
        layer = memory_of(released, stage)
        print(f"{stage}: {layer}, {sum(parameter.numel() for parameter in layer.parameters()):,} parameters")


if __name__ == "__main__":
    main()
