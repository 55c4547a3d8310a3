"""What the tests of the networks share."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kvmgan.models.text_encoder import word_mask

DATA = Path(__file__).parents[2] / "data"


class Captions(NamedTuple):
    """A batch of encoded captions."""

    sentence: Tensor
    words: Tensor
    mask: Tensor


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def captions() -> Captions:
    """Four captions of 7, 1, 3 and 5 words, feature length 12."""
    lengths = torch.tensor([7, 1, 3, 5])
    return Captions(torch.randn(4, 12), torch.randn(4, 7, 12), word_mask(lengths, 7))


@pytest.fixture(scope="session")
def released_shapes() -> dict:
    """Names and shapes in DM-GAN's released CUB checkpoints: generator, text_encoder, discriminators."""
    return json.loads((DATA / "dmgan_bird.keys.json").read_text())


@pytest.fixture(scope="session", params=["dmgan", "attngan"])
def released_vectors(request) -> tuple[str, dict[str, Tensor]]:
    """Weights, inputs and outputs of a small network run through the released code, with its name."""
    return request.param, load_file(DATA / f"{request.param}_tiny.safetensors")


# Released module name -> name here, inside one refinement stage and in the whole generator.
STAGE_NAMES = {
    "A.": "memory.gate_word.",
    "B.": "memory.gate_image.",
    "M_w.0.": "memory.write_word.",
    "M_r.0.": "memory.write_image.",
    "key.0.": "memory.key.",
    "value.0.": "memory.value.",
    "response_gate.0.": "memory.response_gate.",
    "att.conv_context.": "attention.conv_context.",
    "upsample.1.": "upsample.conv.",
    "upsample.2.": "upsample.norm.",
    **{
        f"residual.{block}.block.{theirs}.": f"residual.{block}.{ours}."
        for block in range(3)
        for theirs, ours in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2"))
    },
}
RELEASED_NAMES = {
    "ca_net.fc.": "conditioning.fc.",
    "h_net1.fc.0.": "initial.fc.",
    "h_net1.fc.1.": "initial.norm.",
    **{f"h_net1.upsample{i + 1}.1.": f"initial.blocks.{i}.conv." for i in range(4)},
    **{f"h_net1.upsample{i + 1}.2.": f"initial.blocks.{i}.norm." for i in range(4)},
    **{f"img_net{i + 1}.img.0.": f"heads.{i}.conv." for i in range(3)},
    **{f"h_net{i + 2}.{theirs}": f"refinements.{i}.{ours}" for i in range(2) for theirs, ours in STAGE_NAMES.items()},
}


@pytest.fixture(scope="session")
def rename_released():
    """Function from a parameter name of the released generators to the name here."""

    def rename(name: str) -> str:
        prefix = next(prefix for prefix in RELEASED_NAMES if name.startswith(prefix))
        return RELEASED_NAMES[prefix] + name[len(prefix) :]

    return rename
