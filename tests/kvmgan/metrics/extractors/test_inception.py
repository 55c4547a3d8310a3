"""Inception under its three protocols, with random weights, against torch-fidelity and torchvision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kvmgan.errors import UserError
from kvmgan.metrics.extractors import inception as module
from kvmgan.metrics.extractors.inception import TENSORFLOW, TORCHVISION, inception, is_at_hand
from kvmgan.metrics.feature_metrics import frechet_distance, inception_score, kernel_distance, precision_recall
from kvmgan.metrics.seen import see

torchvision = pytest.importorskip("torchvision")
torch_fidelity = pytest.importorskip("torch_fidelity")
CPU = torch.device("cpu")


class Pictures(Dataset):
    def __init__(self, pictures: Tensor):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> Tensor:
        return self.pictures[place]


def _random_state(network: torch.nn.Module) -> dict[str, Tensor]:
    """Weights that keep activations of the size of one, so that features differ from picture to picture."""
    source = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name, tensor in state.items():
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            state[name] = torch.randn(tensor.shape, generator=source) * (2 / fan_in) ** 0.5
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Both files of weights, random."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    path = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *arguments, **options: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(_random_state(network), path / TENSORFLOW.rsplit("/", 1)[1])
    network = torchvision.models.Inception3(init_weights=False)
    torch.save(_random_state(network), path / TORCHVISION.rsplit("/", 1)[1])
    return path


def drawn(count: int, seed: int, side: int = 32) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=source)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") * (0.4 + 0.1 * seed)
    return (255 * fine).to(torch.uint8)


def test_all_four_metrics_are_torch_fidelitys_own(folder):
    """On the same pictures and weights, by its whole command; relative difference below 1e-3, or one of rounding."""
    generated, real = drawn(12, 1), drawn(11, 2)
    found = torch_fidelity.calculate_metrics(
        input1=Pictures(generated),
        input2=Pictures(real),
        cuda=False,
        batch_size=10,
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        kid_subset_size=11,
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(folder / TENSORFLOW.rsplit("/", 1)[1]),
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    watcher = inception("tf", folder, CPU)
    first, second = (see(pictures.split(7), [watcher]) for pictures in (generated, real))
    features = first["inception-tf.features"], second["inception-tf.features"]
    kernel, score = kernel_distance(*features), inception_score(first["inception-tf.logits"])
    precision, recall = precision_recall(*features)
    ours = {
        "frechet_inception_distance": frechet_distance(*features),
        "kernel_inception_distance_mean": kernel.mean,
        "kernel_inception_distance_std": kernel.std,
        "inception_score_mean": score.mean,
        "inception_score_std": score.std,
        "precision": precision,
        "recall": recall,
    }
    assert ours["frechet_inception_distance"] > 1e-3
    for name, value in ours.items():
        # Batches of other sizes are rounded otherwise: kernel values of about one, by 6e-8 each.
        assert value == pytest.approx(found[name], rel=1e-3, abs=2e-8), name


def test_clean_is_the_same_network_on_pictures_that_need_no_resizing(folder):
    """Of 299 pixels both protocols see the same: the layers stand in their order, nothing is left out."""
    pictures = drawn(2, 1, side=299)
    tf, clean = (see([pictures], [inception(name, folder, CPU)]) for name in ("tf", "clean"))
    for what in ("features", "logits"):
        torch.testing.assert_close(clean[f"inception-clean.{what}"], tf[f"inception-tf.{what}"], rtol=1e-4, atol=1e-4)


def test_clean_resizes_otherwise_than_tensorflow(folder):
    pictures = drawn(2, 1, side=40)
    tf, clean = (see([pictures], [inception(name, folder, CPU)]) for name in ("tf", "clean"))
    gap = (tf["inception-tf.features"] - clean["inception-clean.features"]).abs().max()
    assert gap > 1e-4


def test_legacy_is_torchvisions_network_behind_a_map_for_normalised_pictures(folder):
    """Stated plainly: x * deviation / 0.5 + (mean - 0.5) / 0.5 by channel, of pictures in [0, 1]."""
    pictures = drawn(2, 1)
    network = torchvision.models.Inception3(transform_input=False, init_weights=False)
    network.load_state_dict(torch.load(folder / TORCHVISION.rsplit("/", 1)[1], weights_only=True))
    network.eval()
    network.fc = torch.nn.Identity()
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    enlarged = torch.nn.functional.interpolate(pictures / 255, size=(299, 299), mode="bilinear")
    with torch.no_grad():
        expected = network(enlarged * deviation / 0.5 + (mean - 0.5) / 0.5)
    seen = see([pictures], [inception("legacy-dmgan", folder, CPU)])
    assert list(seen) == ["inception-legacy-dmgan.features"]
    torch.testing.assert_close(seen["inception-legacy-dmgan.features"], expected, rtol=1e-4, atol=1e-4)


def test_weights_are_named_by_their_bytes_and_found_in_the_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert is_at_hand(folder) and not is_at_hand(tmp_path)
    assert inception("tf", folder, CPU).weights != inception("legacy-dmgan", folder, CPU).weights


def test_weights_of_another_network_are_one_line(tmp_path):
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / TENSORFLOW.rsplit("/", 1)[1])
    with pytest.raises(UserError, match=r"6726825d\.pth doesn't fit Inception"):
        inception("tf", tmp_path, CPU)


def test_a_file_that_holds_code_is_refused_before_anything_reads_it(tmp_path, monkeypatch):
    """torch-fidelity reads what it is given with pickle, which runs it."""
    import os
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / TENSORFLOW.rsplit("/", 1)[1]
    path.write_bytes(pickle.dumps(Hostile()))
    monkeypatch.setattr(module, "_network", lambda *arguments: pytest.fail("it was handed on"))
    with pytest.raises(UserError, match="can't be read as weights"):
        inception("tf", tmp_path, CPU)
    assert not (tmp_path / "ran").exists()
