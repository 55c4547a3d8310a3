"""The DAMSM image encoder on Inception-v3 (AttnGAN, section 3.2)."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.errors import UserError
from kvmgan.storage.pth_file import load_pth

# torchvision's names, in order. Regions are read after the first row, the global feature after the second.
LOCAL_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
)
DEEP_LAYERS = ("Mixed_7a", "Mixed_7b", "Mixed_7c")
INPUT_SIZE = 299


class InceptionImageEncoder(nn.Module):
    """Inception-v3 up to Mixed_7c with projections to the words' space.

    Parameters are named as in the released DAMSM encoders. Inception itself is frozen: its parameters
    need no gradient and its batch normalisation always uses the stored statistics; only the two
    projections ``emb_features`` and ``emb_cnn_code`` train. Gradients flow to the images.

    Args:
        feature_dim: length D of the features, the text encoder's word_dim.
        weights: where Inception's weights come from: ``"imagenet"`` (torchvision's cache or download), a
            file of torchvision's ``inception_v3_google`` state dict, or ``None``: left random, for a
            whole encoder's state dict to be loaded over them.

    Raises:
        UserError: torchvision isn't installed, or the weights can't be had.
    """

    def __init__(self, *, feature_dim: int = 256, weights: Path | Literal["imagenet"] | None = None) -> None:
        super().__init__()
        try:
            from torchvision.models import Inception3
        except ImportError as error:
            raise UserError("the Inception image encoder needs torchvision: pip install torchvision") from error
        inception = Inception3(aux_logits=False, init_weights=False)
        if weights is not None:
            _load_inception(inception, weights)
        for name in LOCAL_LAYERS + DEEP_LAYERS:
            self.add_module(name, getattr(inception, name).requires_grad_(False))
        self.emb_features = nn.Conv2d(768, feature_dim, kernel_size=1, bias=False)
        self.emb_cnn_code = nn.Linear(2048, feature_dim)
        nn.init.uniform_(self.emb_features.weight, -0.1, 0.1)
        nn.init.uniform_(self.emb_cnn_code.weight, -0.1, 0.1)
        self.train(self.training)

    def train(self, mode: bool = True) -> "InceptionImageEncoder":
        """Set the mode; Inception's own layers stay in evaluation mode."""
        super().train(mode)
        for name in LOCAL_LAYERS + DEEP_LAYERS:
            self.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return regions (B, D, 17, 17) and the global feature (B, D).

        Args:
            images: (B, 3, s, s) in [-1, 1], resized to 299 pixels here (bilinear, corners aligned).

        Raises:
            ValueError: ``images`` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images is {tuple(images.shape)}, expected (B, 3, s, s)")
        local = F.interpolate(images, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=True)
        for name in LOCAL_LAYERS:
            local = self.get_submodule(name)(local)
        deep = local
        for name in DEEP_LAYERS:
            deep = self.get_submodule(name)(deep)
        return self.emb_features(local), self.emb_cnn_code(deep.mean(dim=(2, 3)))


def _load_inception(inception: nn.Module, weights: Path | Literal["imagenet"]) -> None:
    """Load torchvision's weights, from its cache, its download or a file."""
    state = _download_weights() if weights == "imagenet" else _read_weights(Path(weights))
    # The auxiliary classifier is in the file but not in the network.
    state = {name: tensor for name, tensor in state.items() if not name.startswith("AuxLogits.")}
    try:
        inception.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{weights} holds another network's weights, expected torchvision's Inception-v3") from error


def _download_weights() -> dict[str, Tensor]:
    from torchvision.models import Inception_V3_Weights

    source = Inception_V3_Weights.IMAGENET1K_V1
    try:
        return source.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        target = Path(torch.hub.get_dir()) / "checkpoints" / Path(source.url).name
        raise UserError(f"can't get Inception's weights ({error}): put {source.url} at {target}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_pth(path, "torchvision's inception_v3")
    except UserError as error:
        raise UserError(
            f"can't read Inception's weights {path} ({error}): expected torchvision's inception_v3 file"
        ) from None
