"""The CUDA kernels' source on this machine's CPU, called with the tensors of a Problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch
from kvmem_problems import Problem
from torch import Tensor

# compute capability, multiprocessors, bytes of shared memory of a block and of a multiprocessor
DEVICES = {
    "sm_80": (80, 108, 166912, 167936),
    "sm_86": (86, 84, 101376, 102400),
    "sm_90": (90, 132, 232448, 233472),
    # No such chips: just enough shared memory for the cluster path's backward to start.
    "small sm_90, 32 bit": (90, 132, 151552, 152576),
    "small sm_90, 16 bit": (90, 132, 81920, 82944),
}


def _to_numpy(tensor: Tensor) -> np.ndarray:
    """16-bit numbers as their bits: numpy has no bfloat16."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16).numpy().view(np.uint16) if tensor.itemsize == 2 else tensor.numpy()).copy()


def _to_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(array.view(np.int16)).view(dtype) if array.itemsize == 2 else torch.from_numpy(array)


def gradients_of_outputs(problem: Problem) -> list[Tensor]:
    """Random gradients of a problem's response and attention, the same ones for the same sizes and type."""
    generator = torch.Generator().manual_seed(1)
    batch, _, height, width = problem.image.shape
    shapes = (problem.image.shape, (batch, problem.slots, height, width))
    return [torch.randn(shape, generator=generator).to(problem.image.dtype) for shape in shapes]


@dataclass
class SimtLayer:
    """Forward and backward of the module kvmem_simt; what it did last is in `forward` and `backward`.

    Of a ReadProblem where `names` are those of memory_read's directions.
    """

    module: ModuleType
    names: tuple[str, str] = ("forward", "backward")
    seed: int = 0
    misalignment: int = 0
    channels_last: bool | None = None  # None: as the image lies
    forward: dict = field(default_factory=dict)
    backward: dict = field(default_factory=dict)

    def __call__(self, problem: Problem, attention: bool, grads: list[Tensor]) -> dict[str, Tensor]:
        """Outputs and all gradients by name, as kvmem_accuracy.results gives them."""
        outputs = self.run_forward(problem, attention)
        gradients = self.run_backward(problem, grads[0], grads[1] if attention else None)
        return {**outputs, **{f"gradient of {name}": gradient for name, gradient in gradients.items()}}

    def run_forward(self, problem: Problem, attention: bool = False) -> dict[str, Tensor]:
        inputs, mask = self._inputs(problem)
        self.forward = getattr(self.module, self.names[0])(inputs, mask, attention, **self._settings(problem))
        found = {"out": self._to_image(problem, self.forward["out"])}
        if attention:
            batch, _, height, width = problem.image.shape
            maps = _to_tensor(self.forward["attention"], problem.image.dtype)
            found["attention"] = maps.view(batch, problem.slots, height, width)
        return found

    def run_backward(
        self, problem: Problem, grad_out: Tensor, grad_attention: Tensor | None, needs: list[bool] | None = None
    ) -> dict[str, Tensor]:
        """The gradients that are needed (default: all), after the run_forward of the same problem."""
        inputs, mask = self._inputs(problem)
        dtype = problem.image.dtype
        if grad_attention is not None:
            grad_attention = _to_numpy(grad_attention.to(dtype).flatten(2))
        self.backward = getattr(self.module, self.names[1])(
            inputs,
            mask,
            self.forward,
            self._from_image(problem, grad_out.to(dtype)),
            grad_attention,
            [True] * len(inputs) if needs is None else needs,
            **self._settings(problem),
        )
        gradients = dict(self.backward["gradients"])
        return {
            name: self._to_image(problem, array) if name == "image" else _to_tensor(array, dtype)
            for name, array in gradients.items()
        }

    def recorded(self, problem: Problem, grads: list[Tensor]) -> dict:
        """A call with the attention and all gradients as the module is given it, and the arrays that it gave."""
        self(problem, True, grads)
        inputs, mask = self._inputs(problem)
        outputs = {name: self.forward[name] for name in ("out", "attention", "mean", "memory")}
        return {
            "inputs": inputs,
            "mask": mask,
            "settings": self._settings(problem),
            "grad_out": self._from_image(problem, grads[0]),
            "grad_attention": _to_numpy(grads[1].flatten(2)),
            "expected": {**outputs, **self.backward["gradients"]},
        }

    def _settings(self, problem: Problem) -> dict[str, str | bool | int]:
        return {
            "dtype": str(problem.image.dtype).removeprefix("torch."),
            "linear_write_gate": problem.options.get("write_gate") == "linear",
            "relu": problem.options.get("activation", "relu") == "relu",
            "detach_mean": problem.options.get("detach_mean", False),
            "channels_last": self._is_channels_last(problem),
            "seed": self.seed,
            "misalignment": self.misalignment,
        }

    def _is_channels_last(self, problem: Problem) -> bool:
        return not problem.image.is_contiguous() if self.channels_last is None else self.channels_last

    def _inputs(self, problem: Problem) -> tuple[list[np.ndarray], np.ndarray | None]:
        _, *others = problem.inputs.values()
        inputs = [self._from_image(problem, problem.image), *(_to_numpy(tensor) for tensor in others)]
        return inputs, None if problem.mask is None else _to_numpy(problem.mask)

    def _from_image(self, problem: Problem, image: Tensor) -> np.ndarray:
        """(B, C, N), or (B, N, C) if channels last."""
        image = image.flatten(2)
        return _to_numpy(image.mT if self._is_channels_last(problem) else image)

    def _to_image(self, problem: Problem, array: np.ndarray) -> Tensor:
        image = _to_tensor(array, problem.image.dtype)
        return (image.mT if self._is_channels_last(problem) else image).unflatten(2, problem.image.shape[2:])
