"""The step of adversarial training on a GPU: it never waits for it, and skips what isn't finite there."""

import pytest
import torch

# Where what it needs isn't installed, as on a machine with a GPU and without a network, there is nothing to test.
problem = pytest.importorskip("kvmgan_training")
DEVICE = torch.device("cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_no_step_waits_for_the_gpu(precision, memory_format):
    """torch raises at every call that waits."""
    options = problem.tiny_options(precision=precision, memory_format=memory_format)
    step, state = problem.tiny_step(options, DEVICE)
    batches = [problem.tiny_batch(options, seed).pin_memory().to(DEVICE) for seed in range(4)]
    step(state, batches[0])
    step(state, batches[1])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(state, batches[2])
        step(state, batches[3])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == 4


def test_a_step_that_is_not_finite_is_skipped():
    """Weights stay, the step is counted, and the next one trains."""
    options = problem.tiny_options()
    step, state = problem.tiny_step(options, DEVICE)
    step(state, problem.tiny_batch(options, 0).to(DEVICE))
    before = state.generator.heads[0].conv.weight.clone()
    hook = state.generator.heads[-1].conv.weight.register_hook(lambda gradient: gradient * float("inf"))
    step(state, problem.tiny_batch(options, 1).to(DEVICE))
    assert torch.equal(state.generator.heads[0].conv.weight, before) and state.skipped.item() == 1
    hook.remove()
    step(state, problem.tiny_batch(options, 2).to(DEVICE))
    assert not torch.equal(state.generator.heads[0].conv.weight, before) and state.skipped_in_row.item() == 0
