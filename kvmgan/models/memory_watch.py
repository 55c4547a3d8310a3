"""What a generator's key-value memory layers do with a batch: how far their gates open, how sharply they address."""

from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import kvmem
from kvmem.reference import kv_memory_reference
from kvmgan.models.generator import Generator


@torch.no_grad()
def watch_memory(
    generator: Generator, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, condition_noise: Tensor
) -> dict[str, Tensor]:
    """Make the images of a batch of captions and return three means for every memory layer, counted from 1.

    In the letters of `docs/layer.md`, each a tensor (), of float32 or wider:

    - ``write_gate_1``: g over the slots that hold a word; 1 writes the word alone, 0 the image's mean alone;
    - ``response_gate_1``: γ over the positions; 1 answers with what was read alone, 0 leaves the features;
    - ``address_entropy_1``: entropy of α over the positions of captions that have a word [nats]; log T where all T
      words are read alike, 0 where one is.

    The first and the last are nan where no caption has a word. A generator without memory layers gives an empty
    dictionary. Neither the generator nor torch's random state changes.

    Args:
        generator: in evaluation mode.
        noise, sentence, words, mask, condition_noise: as :class:`Generator` takes them.

    Raises:
        ValueError: ``generator`` or a part of it is in training mode, so that its running statistics would change.
    """
    if any(module.training for module in generator.modules()):
        raise ValueError("generator is in training mode, expected evaluation mode (generator.eval())")
    layers = [stage.memory for stage in generator.refinements if stage.refinement == "memory"]
    means: dict[str, Tensor] = {}
    if not layers:
        return means
    with ExitStack() as context:
        for number, layer in enumerate(layers, start=1):
            context.enter_context(layer.register_forward_hook(partial(_watch, means, number)))
        # Code compiled before would run past the hooks.
        context.enter_context(torch.compiler.set_stance("force_eager"))
        generator(noise, sentence, words, mask, condition_noise=condition_noise)
    return means


def _watch(
    means: dict[str, Tensor],
    number: int,
    layer: kvmem.KVMemoryLayer,
    inputs: tuple[Tensor, Tensor, Tensor],
    _response: Tensor,
) -> None:
    """Forward hook of one layer: its image h (B, C, H, W), words (B, T, D) and mask (B, T) to the three means."""
    image, words, mask = inputs
    dtype = torch.promote_types(image.dtype, torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        h = image.to(dtype)
        w = words.to(dtype)
        o, alpha = _read(layer, h, w, mask)
        means[f"write_gate_{number}"] = _write_gate(layer, h, w)[mask].mean()
        means[f"response_gate_{number}"] = _response_gate(layer, h, o).mean()
        means[f"address_entropy_{number}"] = torch.special.entr(alpha).sum(dim=1)[mask.any(dim=1)].mean()


def _write_gate(layer: kvmem.KVMemoryLayer, h: Tensor, w: Tensor) -> Tensor:
    """g (B, T, 1 or M)."""
    r = h.mean(dim=(2, 3)).unsqueeze(1)
    g = F.linear(w, layer.gate_word.weight.to(h.dtype)) + F.linear(r, layer.gate_image.weight.to(h.dtype))
    return g if layer.write_gate == "linear" else g.sigmoid()


def _read(layer: kvmem.KVMemoryLayer, h: Tensor, w: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is read, o (B, C, H, W), and the addresses α (B, T, H, W)."""
    memory_side = (layer.write_word, layer.write_image, layer.key, layer.value)
    weights = [layer.gate_word.weight, layer.gate_image.weight]
    weights += [tensor for linear in memory_side for tensor in (linear.weight, linear.bias)]
    # A response gate of σ(∞) = 1 makes the response o itself.
    return kv_memory_reference(
        h,
        w,
        mask,
        *(weight.to(h.dtype) for weight in weights),
        response_gate_weight=h.new_zeros(1, 2 * layer.image_channels),
        response_gate_bias=h.new_full((1,), torch.inf),
        linear_write_gate=layer.write_gate == "linear",
        relu=layer.activation == "relu",
    )


def _response_gate(layer: kvmem.KVMemoryLayer, h: Tensor, o: Tensor) -> Tensor:
    """γ (B, H, W, 1 or C)."""
    gate = layer.response_gate
    joined = torch.cat((h, o), dim=1).movedim(1, 3)
    return F.linear(joined, gate.weight.to(h.dtype), gate.bias.to(h.dtype)).sigmoid()
