"""What is timed: the shapes, the contenders for each, and the arithmetic and traffic that none of them can avoid."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from attention_composition import AttentionComposition

import kvmem
from kvmem.reference import kv_memory_reference

DIRECTIONS = ("forward", "forward + backward")
CONTENDERS = ("fused", "eager", "compiled", "attention")


@dataclass(frozen=True)
class Case:
    """One shape, in the letters of the layer's docstring; size is the height and the width."""

    name: str
    batch: int
    image_channels: int
    size: int
    slots: int
    word_channels: int
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    device: str = "cpu"

    def flops(self, direction: str) -> float:
        """Floating-point operations of the call, the slots' few exponentials left out.

        A position takes 2C(2T+1) forward, the memory side 2(TDM + CM + 2TMC) an image. Backward takes three times as
        much: it repeats the forward pass and multiplies by both factors of every product.
        """
        c, t, d = self.image_channels, self.slots, self.word_channels
        m = 2 * c
        forward = self.batch * (self.size**2 * 2 * c * (2 * t + 1) + 2 * (t * d * m + c * m + 2 * t * m * c))
        return forward * {"forward": 1, "backward": 3, "forward + backward": 4}[direction]

    def copies(self, direction: str) -> float:
        """Traffic in copies of the image: forward reads it and writes its like; backward reads two and writes one."""
        return {"forward": 1, "backward": 1.5, "forward + backward": 2.5}[direction]

    def make_image(self) -> torch.Tensor:
        image = torch.randn(self.batch, self.image_channels, self.size, self.size, device=self.device)
        return image.to(self.dtype).contiguous(memory_format=self.memory_format)

    def make_words(self) -> torch.Tensor:
        return torch.randn(self.batch, self.slots, self.word_channels, device=self.device).to(self.dtype)


CASES = (
    Case("main", 4, 64, 128, 18, 256),
    Case("stage two", 10, 64, 64, 18, 256),
    Case("small", 16, 32, 32, 18, 256),
    Case("main, channels_last", 4, 64, 128, 18, 256, memory_format=torch.channels_last),
    Case("main, bfloat16", 4, 64, 128, 18, 256, torch.bfloat16),
)

PAPER = [("64²", 64), ("128²", 128)]
BATCHES, SLOTS, CHANNELS = (1, 4, 16), (12, 18, 77), (32, 64, 256, 320)
# By `python benchmarks/run.py --all`: what a user's shape may cost, and where it begins to cost more.
ALL_CASES = (
    *CASES,
    *(Case(f"B={batch}, {name}", batch, 64, size, 18, 256) for batch in BATCHES for name, size in PAPER),
    *(Case(f"B={batch}, 128², bfloat16", batch, 64, 128, 18, 256, torch.bfloat16) for batch in (1, 16)),
    *(Case(f"T={slots}, 64²", 4, 64, 64, slots, 256) for slots in SLOTS if slots != 18),
    *(Case(f"C={channels}, 32²", 4, channels, 32, 18, 256) for channels in CHANNELS),
    *(Case(f"{size}²", 1, 64, size, 18, 256) for size in (256, 512)),
    Case("127²", 4, 64, 127, 18, 256),
    Case("127², bfloat16", 4, 64, 127, 18, 256, torch.bfloat16),
    Case("main, bfloat16, channels_last", 4, 64, 128, 18, 256, torch.bfloat16, torch.channels_last),
    Case("C=320, T=77, D=768, 32²", 4, 320, 32, 77, 768),
    Case("C=320, T=77, D=768, 32², bfloat16", 4, 320, 32, 77, 768, torch.bfloat16),
    Case("C=1280, T=77, D=768, 8²", 4, 1280, 8, 77, 768),
)


def make_contenders(case: Case, direction: str) -> dict[str, Callable[[], object]]:
    """Name -> a function that runs the layer once on the same values.

    fused is missing where kvmem has no compiled extension. Raises AssertionError where the contenders disagree.
    """
    torch.manual_seed(0)
    torch.compiler.reset()
    image = case.make_image()
    words = case.make_words()
    grad_out = torch.randn_like(image)
    layers = {"eager": make_layer(case, "eager")}
    layers["compiled"] = torch.compile(layers["eager"], fullgraph=True, dynamic=False)
    layers["attention"] = AttentionComposition(make_layer(case, "eager"))
    if kvmem.backends()["cpu"].available:
        layers = {"fused": make_layer(case, "cpu"), **layers}
    backward = direction != "forward"
    inputs = [image.requires_grad_(backward), words.requires_grad_(backward)]

    def runner(layer: torch.nn.Module) -> Callable[[], object]:
        def forward():
            with torch.no_grad():
                return (layer(image, words),)

        def forward_and_backward():
            return torch.autograd.grad(layer(image, words), [*inputs, *layer.parameters()], grad_out)

        return forward_and_backward if backward else forward

    contenders = {name: runner(layer) for name, layer in layers.items()}
    check_agreement(contenders, case.dtype)
    return contenders


class PlainLayer(kvmem.KVMemoryLayer):
    """The equations in the type of the tensors, as one would write them: the backend "eager" computes in float32."""

    def forward(self, image: torch.Tensor, words: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return kv_memory_reference(image, words, mask, *self.parameters())[0]


def make_layer(case: Case, backend: str) -> kvmem.KVMemoryLayer:
    """The layer of a backend; "eager" is the plain one."""
    torch.manual_seed(1)
    kind = PlainLayer if backend == "eager" else kvmem.KVMemoryLayer
    layer = kind(case.image_channels, case.word_channels, backend=backend, dtype=case.dtype)
    return layer.to(case.device)


def check_agreement(contenders: dict[str, Callable[[], object]], dtype: torch.dtype) -> None:
    """A fast wrong answer is no contender: the first result of each is close to the eager one, relative to its size."""
    expected = contenders["eager"]()
    # In 16-bit types it is the eager gradients that are a tenth off: sums over positions of rounded terms that cancel.
    tolerance = 1e-3 if dtype == torch.float32 else 0.25
    for name, run in contenders.items():
        for found, reference in zip(run(), expected, strict=True):
            difference = (found.double() - reference.double()).norm()
            assert difference <= tolerance * reference.double().norm(), f"{name} disagrees with eager"
