"""The two DAMSM image encoders."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kvmgan.errors import UserError
from kvmgan.models.image_encoder import Blur, SmallImageEncoder


@pytest.mark.parametrize("size", [32, 64, 100, 128])
def test_small_encoder_shapes_at_any_size(size):
    regions, overall = SmallImageEncoder(feature_dim=6, width=2)(torch.randn(2, 3, size, size))
    assert regions.shape == (2, 6, 8, 8)
    assert overall.shape == (2, 6)


def test_small_encoder_sees_the_same_picture_at_every_size():
    encoder = SmallImageEncoder(feature_dim=6, width=2).eval()
    outline = torch.randn(2, 3, 4, 4)
    small, large = (F.interpolate(outline, size=size, mode="bilinear") for size in (64, 256))
    for expected, actual in zip(encoder(small), encoder(large), strict=True):
        assert (actual - expected).norm() < 0.05 * expected.norm()


def test_small_encoder_gradients_reach_every_parameter_and_the_image():
    encoder, images = SmallImageEncoder(feature_dim=6, width=2), torch.randn(2, 3, 64, 64, requires_grad=True)
    regions, overall = encoder(images)
    (regions.square().sum() + overall.square().sum()).backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())
    assert images.grad.any()


@torch.no_grad()
def test_small_encoder_reads_images_one_by_one_in_evaluation():
    encoder, images = SmallImageEncoder(feature_dim=6, width=2).eval(), torch.randn(3, 3, 64, 64)
    regions, overall = encoder(images)
    for i in range(3):
        alone_regions, alone_overall = encoder(images[i : i + 1])
        torch.testing.assert_close(alone_regions[0], regions[i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone_overall[0], overall[i], atol=1e-5, rtol=1e-4)


def test_blur_is_the_binomial_kernel_pixel_by_pixel():
    images = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    rows, columns = images.shape[2:]
    expected = torch.zeros_like(images)
    for row in range(rows):
        for column in range(columns):
            for down, across in itertools.product((-1, 0, 1), repeat=2):
                near = images[:, :, min(max(row + down, 0), rows - 1), min(max(column + across, 0), columns - 1)]
                expected[:, :, row, column] += near * (2 - abs(down)) * (2 - abs(across)) / 16
    torch.testing.assert_close(Blur(3)(images), expected, atol=1e-7, rtol=1e-6)


@pytest.fixture(scope="module")
def gradient():
    """Of the small encoder's features, weighted at random, by pictures (16, 3, 64, 64)."""
    torch.manual_seed(0)
    encoder, images = SmallImageEncoder(feature_dim=32, width=8).eval(), torch.randn(16, 3, 64, 64, requires_grad=True)
    regions, overall = encoder(images)
    loss = (regions * torch.randn_like(regions)).sum() + (overall * torch.randn_like(overall)).sum()
    return torch.autograd.grad(loss, images)[0]


def test_small_encoder_gradient_has_no_fine_pattern(gradient):
    """Unblurred it has two fifths of its power at periods under 2.7 pixels, which a generator draws."""
    power = torch.fft.fft2(gradient).abs().square().sum((0, 1))
    frequency = torch.fft.fftfreq(64).abs()
    fine = torch.maximum(frequency[:, None], frequency) > 3 / 8
    assert power[fine].sum() < 0.05 * power.sum()


def test_small_encoder_gradient_is_as_strong_at_every_pixel_of_a_region(gradient):
    """By halvings of 3x3 some pixels of the eight by eight get four times as much as others."""
    power = gradient.square().sum((0, 1)).unflatten(0, (8, 8)).unflatten(2, (8, 8)).sum((0, 2))
    assert power.max() < 2.5 * power.min()


def test_small_encoder_names_images_that_are_too_small():
    with pytest.raises(ValueError, match=r"images is \(1, 3, 16, 16\)"):
        SmallImageEncoder(width=2)(torch.randn(1, 3, 16, 16))


@pytest.fixture(scope="module")
def inception():
    pytest.importorskip("torchvision")
    from kvmgan.models.inception_encoder import InceptionImageEncoder

    torch.manual_seed(0)
    return InceptionImageEncoder(feature_dim=6)


def test_inception_encoder_has_torchvisions_names_up_to_mixed_7c(inception):
    from torchvision.models import Inception3

    whole = Inception3(init_weights=False).state_dict()
    trunk = {n: tuple(t.shape) for n, t in whole.items() if not n.startswith(("AuxLogits.", "fc."))}
    projections = {"emb_features.weight": (6, 768, 1, 1), "emb_cnn_code.weight": (6, 2048), "emb_cnn_code.bias": (6,)}
    assert {name: tuple(tensor.shape) for name, tensor in inception.state_dict().items()} == trunk | projections


def test_inception_encoder_trains_its_projections_alone_and_keeps_its_statistics(inception):
    inception.train()
    statistics = inception.Mixed_7c.branch1x1.bn.running_mean.clone()
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    regions, overall = inception(images)
    assert regions.shape == (2, 6, 17, 17)
    assert overall.shape == (2, 6)
    (regions.sum() + overall.sum()).backward()
    trained = [name for name, parameter in inception.named_parameters() if parameter.grad is not None]
    assert trained == ["emb_features.weight", "emb_cnn_code.weight", "emb_cnn_code.bias"]
    assert images.grad.any()
    assert not any(layer.training for layer in inception.modules() if isinstance(layer, nn.BatchNorm2d))
    assert torch.equal(inception.Mixed_7c.branch1x1.bn.running_mean, statistics)


def test_inception_encoder_loads_torchvisions_file(inception, tmp_path):
    from torchvision.models import Inception3

    from kvmgan.models.inception_encoder import InceptionImageEncoder

    torch.save(Inception3(init_weights=False).state_dict(), tmp_path / "inception.pth")
    loaded = InceptionImageEncoder(weights=tmp_path / "inception.pth")
    stored = torch.load(tmp_path / "inception.pth", weights_only=True)
    assert torch.equal(loaded.Mixed_6e.branch1x1.conv.weight, stored["Mixed_6e.branch1x1.conv.weight"])


def test_inception_encoder_names_what_is_wrong_with_a_weights_file(tmp_path):
    pytest.importorskip("torchvision")
    from kvmgan.models.inception_encoder import InceptionImageEncoder

    with pytest.raises(UserError, match=r"missing\.pth"):
        InceptionImageEncoder(weights=tmp_path / "missing.pth")
    (tmp_path / "corrupt.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"corrupt\.pth"):
        InceptionImageEncoder(weights=tmp_path / "corrupt.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth holds another network's weights"):
        InceptionImageEncoder(weights=tmp_path / "other.pth")


def test_inception_encoder_says_that_torchvision_is_missing(monkeypatch):
    from kvmgan.models.inception_encoder import InceptionImageEncoder

    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UserError, match="needs torchvision"):
        InceptionImageEncoder()
