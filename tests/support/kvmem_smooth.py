"""Random problems in float32 that stay away from the kinks of their relus.

Where the input of a relu lies within a rounding error of 0, its derivative is 0 for one form of the layer and 1 for
another, and both are right: such a draw says nothing about accuracy.
"""

import torch
from kvmem_problems import Problem, make_problem
from torch.nn.functional import linear

CLOSEST = 2e-6


def distance_from_kinks(problem: Problem) -> float:
    """The smallest size of an input of a relu, in float64."""
    if problem.options.get("activation") == "identity":
        return float("inf")
    problem = problem.to(torch.float64)
    weights, mask = problem.weights, problem.mask
    words = problem.words if mask is None else problem.words.masked_fill(~mask.unsqueeze(2), 0)
    mean = problem.image.flatten(2).mean(2).unsqueeze(1)
    gate = linear(words, weights["gate_word"]) + linear(mean, weights["gate_image"])
    gate = gate if problem.options.get("write_gate") == "linear" else gate.sigmoid()
    word_part = linear(words, weights["write_word_weight"], weights["write_word_bias"])
    image_part = linear(mean, weights["write_image_weight"], weights["write_image_bias"])
    memory = gate * word_part.relu() + (1 - gate) * image_part.relu()
    keys = linear(memory, weights["key_weight"], weights["key_bias"])
    values = linear(memory, weights["value_weight"], weights["value_bias"])
    return min(tensor.abs().min().item() for tensor in (word_part, image_part, keys, values))


def make_smooth_problem(*shape, seed: int, dtype: torch.dtype, **settings) -> Problem:
    """As make_problem, with another seed instead where this one comes close to a kink."""
    while True:
        problem = make_problem(*shape, seed=seed, dtype=dtype, **settings)
        if dtype != torch.float32 or distance_from_kinks(problem) > CLOSEST:
            return problem
        seed += 1000
