"""DINOv2 and CLIP with small random networks, saved as transformers saves them, against its own processors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.errors import UserError
from kvmgan.evaluation.scores.clip_score import ClipScore
from kvmgan.metrics.extractors import huggingface
from kvmgan.metrics.extractors.huggingface import clip, dinov2

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
CAPTIONS = ["a red bird", "red birds with", "bird"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**small, image_size=224, patch_size=14)
    transformers.Dinov2Model(config).save_pretrained(path / "dinov2-large")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    target = path / "clip-vit-base-patch32"
    target.mkdir()
    (target / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (target / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizerFast(str(target / "vocab.json"), str(target / "merges.txt")).save_pretrained(target)
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    text = {**small, "intermediate_size": 32, "vocab_size": 54, "max_position_embeddings": 20, **ends}
    vision = {**small, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(target)
    return path


def drawn(count: int, side: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def test_dinov2_sees_the_class_token_of_normalised_pictures(folder):
    pictures = drawn(2, side=224)
    network = transformers.Dinov2Model.from_pretrained(folder / "dinov2-large").eval()
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.no_grad():
        expected = network(pixel_values=(pictures / 255 - mean) / deviation).pooler_output
    found = dinov2(folder, CPU).look(pictures)["features"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_clip_score_is_torchmetrics_on_pictures_of_its_size(folder, monkeypatch):
    """Of the network's own size nothing is resized: torchmetrics rounds between resizing and normalising."""
    functional = pytest.importorskip("torchmetrics.functional.multimodal")
    pictures = drawn(3, side=32)
    target = folder / "clip-vit-base-patch32"
    network = transformers.CLIPModel.from_pretrained(target).eval()
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(target)
    size = {"shortest_edge": 32}
    images = transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    processor = transformers.CLIPProcessor(images, tokenizer)
    # torchmetrics 1.9 knows what transformers 4 returned: the embeddings themselves.
    for name in ("get_image_features", "get_text_features"):
        method = getattr(network, name)
        monkeypatch.setattr(network, name, lambda *given, of=method, **named: huggingface._pooled(of(*given, **named)))
    expected = functional.clip_score(list(pictures), CAPTIONS, model_name_or_path=lambda: (network, processor))
    watching = clip(folder, CPU)
    seen = {"clip-vit-b-32.embedding": watching.watcher.look(pictures)["embedding"]}
    rows = ClipScore(watching, CAPTIONS, {}).rows({"some": seen}, seen)
    assert rows[0]["value"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-3)


def test_captions_longer_than_the_network_reads_are_cut(folder):
    embedded = clip(folder, CPU).embed(["bird " * 50, CAPTIONS[0]])
    assert embedded.shape == (2, 12)
    assert np.allclose(embedded.norm(dim=1), 1, atol=1e-5)


def test_resizing_is_the_processors(folder):
    """Bicubic and antialiased: within the rounding that the processor puts between, where no level overshoots."""
    levels = torch.linspace(40, 200, 48)[:, None] + 20 * torch.linspace(0, 9, 48).sin()
    pictures = levels.expand(1, 3, 48, 48).to(torch.uint8)
    mean, deviation = huggingface._CLIP
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    picture = Image.fromarray(pictures[0].permute(1, 2, 0).numpy())
    expected = torch.as_tensor(np.asarray(images(picture, return_tensors="np")["pixel_values"]))
    found = huggingface._normalised(huggingface.resized(pictures, 32), mean, deviation)
    assert (found - expected).abs().max() < 1.5 / 255 / min(deviation)


@pytest.mark.parametrize(("load", "name"), [(dinov2, "facebook/dinov2-large"), (clip, "openai/clip-vit-base-patch32")])
def test_what_cannot_be_had_names_its_place(tmp_path, monkeypatch, load, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / name.rsplit("/", 1)[1]).mkdir()
    with pytest.raises(UserError) as error:
        load(tmp_path, CPU)
    assert str(error.value).startswith(f"{name} can't be had (")
    assert str(error.value).endswith(f"put its files into {tmp_path / name.rsplit('/', 1)[1]}")
