"""R-precision: does a picture find its own caption among captions of other classes (AttnGAN, section 4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Candidates judged at once, over all pictures of a part: bounds their gathered features to a hundred MB at D = 256.
_CHUNK = 100_000


def r_precision(pictures: Tensor, captions: Tensor, mismatched: np.ndarray, folds: int) -> tuple[float, float]:
    """Share of pictures nearest to their own caption: mean and standard deviation over the folds [percent].

    A picture scores when the cosine with its caption is larger than with every mismatched one: a tie doesn't score.

    Args:
        pictures: (N, D) global features.
        captions: (N, D) sentence features, row i belongs to picture i.
        mismatched: (N, K) rows of ``captions`` to choose among beside the true one, K at least 1.
        folds: parts of nearly equal size, taken in order.
    """
    pictures, captions = F.normalize(pictures.float(), dim=1), F.normalize(captions.float(), dim=1)
    scores = []
    for rows in torch.arange(len(pictures)).split(max(1, _CHUNK // mismatched.shape[1])):
        # One product for true and mismatched captions, so that equal captions give equal cosines.
        choices = torch.cat((rows[:, None], torch.from_numpy(mismatched[rows.numpy()])), dim=1)
        cosines = torch.einsum("nd,nkd->nk", pictures[rows], captions[choices])
        scores.append(cosines[:, 0] > cosines[:, 1:].amax(dim=1))
    parts = [100 * part.double().mean() for part in torch.cat(scores).tensor_split(folds)]
    return torch.stack(parts).mean().item(), torch.stack(parts).std(correction=0).item()
