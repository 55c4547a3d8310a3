"""Networks that compute their activations again in backward train to the same bits and keep less."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.recomputation import recomputed

CACHES = [parametrize.cached, nullcontext]
PRECISIONS = [torch.float32, torch.bfloat16]


def tiny_generator(refinement: str = "memory", **options) -> Generator:
    sizes = {"stages": 3, "base_size": 16, "width": 4, "noise_dim": 6, "condition_dim": 5, "residual_blocks": 1}
    return Generator(**sizes, sentence_dim=12, word_dim=12, refinement=refinement, **options)


def twins(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The network with its activations kept, and a copy that computes them again."""
    again = copy.deepcopy(network)
    again.checkpoint_activations = True
    return network, again


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


@pytest.mark.parametrize("refinement", ["memory", "attention", "none"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_generator_trains_to_the_same_bits(captions, refinement, precision):
    """Images, gradients, and after two steps weights and running statistics."""
    networks = twins(tiny_generator(refinement))
    optimisers = [torch.optim.Adam(network.parameters(), 1e-2) for network in networks]
    for step in range(2):
        noise, condition_noise, made = torch.randn(4, 6), torch.randn(4, 5), []
        for network, optimiser in zip(networks, optimisers, strict=True):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                images = network(noise, *captions, condition_noise=condition_noise).images
            optimiser.zero_grad()
            sum(image.float().square().mean() for image in images).backward()
            optimiser.step()
            made.append(dict(zip("abc", images, strict=True)))
        assert_same_bits(*made)
        assert_same_bits(*(gradients(network) for network in networks))
        assert_same_bits(*(network.state_dict() for network in networks))
        assert networks[1].initial.norm.num_batches_tracked == step + 1


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_discriminator_trains_to_the_same_bits(cached, precision):
    """A pass over real and one over made images, then one backward pass outside of the cache, as training has it."""
    network = Discriminator(32, width=2, sentence_dim=5)
    # Away from the orthogonal start, where the power iteration has nothing to do.
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    networks = twins(network)
    optimisers = [torch.optim.Adam(network.parameters(), 1e-2) for network in networks]
    for _ in range(2):
        real, made, sentence, results = torch.randn(3, 3, 32, 32), torch.randn(3, 3, 32, 32), torch.randn(3, 5), []
        for network, optimiser in zip(networks, optimisers, strict=True):
            image, loss = made.clone().requires_grad_(), 0.0
            with torch.autocast("cpu", precision, enabled=precision != torch.float32), cached():
                for images, sign in ((real, 1), (image, -1)):
                    features = network(images)
                    logits = network.unconditional(features) + network.conditional(features, sentence)
                    loss = loss + F.softplus(sign * logits.float()).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            results.append({"loss": loss, "image": image.grad, **gradients(network), **network.state_dict()})
        assert_same_bits(*results)


def kept_bytes(network: nn.Module, run: Callable[[nn.Module], list[Tensor]], *inputs: Tensor) -> int:
    """Bytes that are kept for backward beyond the network's own tensors and its inputs, each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.state_dict().values(), *inputs)}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = run(network)
    assert outputs
    return sum(sizes.values())


def test_generator_keeps_less(captions):
    def run(network):
        return network(torch.randn(4, 6), *captions).images

    kept, again = (kept_bytes(network, run) for network in twins(tiny_generator()))
    # The features between the blocks and the images.
    assert again < 0.4 * kept


def test_discriminator_keeps_less():
    images = torch.randn(16, 3, 64, 64)

    def run(network):
        return [network(images)]

    kept, again = (kept_bytes(network, run, images) for network in twins(Discriminator(64, width=4)))
    # The normalised weights.
    assert again < 0.1 * kept


@pytest.mark.parametrize("network", [tiny_generator(), Discriminator(16, width=2, sentence_dim=12)], ids=["G", "D"])
def test_in_evaluation_and_without_gradients_nothing_is_computed_again(captions, network, monkeypatch):
    def run():
        if isinstance(network, Generator):
            return network(torch.zeros(4, 6), *captions, condition_noise=torch.zeros(4, 5)).images[-1]
        return network(torch.zeros(4, 3, 16, 16))

    with torch.no_grad():
        network.train()
        network.checkpoint_activations = True
        before = run()
        network.eval()
        expected = run()
        for module in ("recomputation", "discriminator"):
            monkeypatch.setattr(f"kvmgan.models.{module}.recomputed", None)
        assert torch.equal(run(), expected)
        assert not before.requires_grad


def test_it_is_a_setting_and_not_a_weight():
    for made, plain in (
        (tiny_generator(checkpoint_activations=True), tiny_generator()),
        (Discriminator(16, width=2, checkpoint_activations=True), Discriminator(16, width=2)),
    ):
        assert made.checkpoint_activations
        assert not plain.checkpoint_activations
        assert made.state_dict().keys() == plain.state_dict().keys()


def test_buffers_stay_where_they_are_through_several_backward_passes():
    """A retained graph is computed again at every pass; an error on the way leaves the buffers too."""
    norm = nn.BatchNorm1d(3)
    buffers = dict(norm.named_buffers())
    inputs = torch.randn(4, 3, requires_grad=True)
    output = recomputed(norm, inputs, module=norm).square().sum()
    expected = torch.autograd.grad(F.batch_norm(inputs, None, None, training=True).square().sum(), inputs)
    values = {name: buffer.clone() for name, buffer in buffers.items()}
    assert values["num_batches_tracked"] == 1
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(output, inputs, retain_graph=True), expected)
    norm.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ArithmeticError))
    with pytest.raises(ArithmeticError):
        output.backward()
    assert all(buffer is buffers[name] for name, buffer in norm.named_buffers())
    assert_same_bits(dict(norm.named_buffers()), values)


def test_a_compiled_network_computes_again_where_graphs_may_break(captions, fresh_compiler):
    """And says so where they may not."""
    expected, generator = twins(tiny_generator())
    noise, condition_noise = torch.randn(4, 6), torch.randn(4, 5)
    compiled = torch.compile(generator, backend="eager")
    for network in (expected, compiled):
        network(noise, *captions, condition_noise=condition_noise).images[-1].square().sum().backward()
    compiled_gradients = {name.removeprefix("_orig_mod."): grad for name, grad in gradients(compiled).items()}
    for name, gradient in gradients(expected).items():
        if gradient is not None:
            torch.testing.assert_close(compiled_gradients[name], gradient)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="runs eagerly"):
        torch.compile(generator, fullgraph=True, backend="eager")(noise, *captions)
