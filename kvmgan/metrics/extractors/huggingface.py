"""DINOv2 and CLIP by the package transformers, from a folder or its own download; safetensors alone are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvmgan.errors import UserError
from kvmgan.metrics.extractors.resizing import resized
from kvmgan.metrics.seen import Watcher
from kvmgan.models.weights_digest import weights_digest

DINOV2, CLIP = "facebook/dinov2-large", "openai/clip-vit-base-patch32"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TextImageWatcher:
    """CLIP: a watcher that sees ``embedding`` (b, D), and ``embed``: texts -> (n, D) on the host; both of length 1."""

    watcher: Watcher
    embed: Callable[[Sequence[str]], Tensor]


def dinov2(folder: Path, device: torch.device) -> Watcher:
    """Sees ``features`` (b, 1024): DINOv2 ViT-L/14's class token (FD-DINOv2: Stein et al., 2023), at 224 pixels.

    Raises:
        UserError: if transformers isn't installed or the weights can't be had.
    """
    from_folder = _loaded("Dinov2Model", DINOV2, folder)
    network = from_folder.eval().requires_grad_(False).to(device)

    def look(pictures: Tensor) -> dict[str, Tensor]:
        pixels = _normalised(resized(pictures, 224), *_IMAGENET)
        return {"features": network(pixel_values=pixels).last_hidden_state[:, 0]}

    return Watcher("dinov2-vit-l-14", weights_digest(network), look)


def clip(folder: Path, device: torch.device) -> TextImageWatcher:
    """CLIP ViT-B/32, as CLIPScore takes it (Hessel et al., 2021).

    Raises:
        UserError: if transformers isn't installed or the weights can't be had.
    """
    network = _loaded("CLIPModel", CLIP, folder).eval().requires_grad_(False).to(device)
    tokenizer = _loaded("CLIPTokenizerFast", CLIP, folder)
    side = network.config.vision_config.image_size

    def look(pictures: Tensor) -> dict[str, Tensor]:
        found = network.get_image_features(pixel_values=_normalised(resized(pictures, side), *_CLIP))
        return {"embedding": F.normalize(_pooled(found), dim=1)}

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        longest = network.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), 256):
            batch = list(texts[start : start + 256])
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            found = network.get_text_features(**tokens.to(device))
            parts.append(F.normalize(_pooled(found), dim=1).cpu())
        return torch.cat(parts)

    return TextImageWatcher(Watcher("clip-vit-b-32", weights_digest(network), look), embed)


def _loaded(kind: str, name: str, folder: Path) -> Any:
    """A model or tokenizer of transformers, from ``folder``/<last part of its name> if that exists, else downloaded."""
    try:
        import transformers
    except ImportError:
        raise UserError(f"{name} needs the package transformers: pip install -e '.[eval]'") from None
    local = folder / name.rsplit("/", 1)[1]
    options = {"use_safetensors": True} if kind.endswith("Model") else {}
    try:
        return getattr(transformers, kind).from_pretrained(str(local) if local.is_dir() else name, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} can't be had ({reason}): put its files into {local}") from None


def _normalised(pixels: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    scale = pixels.new_tensor(deviation)[:, None, None]
    return (pixels / 255 - pixels.new_tensor(mean)[:, None, None]) / scale


def _pooled(found: Any) -> Tensor:
    """The embeddings: from transformers 5 on they come in an object."""
    return found if isinstance(found, Tensor) else found.pooler_output
