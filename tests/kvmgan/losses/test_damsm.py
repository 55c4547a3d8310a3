"""The DAMSM losses against the paper's equations written out in loops."""

import math

import pytest
import torch

from kvmgan.losses.damsm import sentence_loss, word_loss
from kvmgan.models.text_encoder import word_mask

LENGTHS = [5, 1, 3, 4]


@pytest.fixture
def features():
    torch.manual_seed(0)
    mask = word_mask(torch.tensor(LENGTHS), 5)
    words = torch.randn(4, 5, 6, requires_grad=True)
    return torch.randn(4, 6, 3, 2, requires_grad=True), words, mask


def cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


def literal_match(image_regions, caption_words, gamma1, gamma2):
    """Similarity of one image (R, D) and one caption (its words alone, (T, D)), in loops."""
    total = torch.zeros(())
    word_count, region_count = len(caption_words), len(image_regions)
    shares = []
    for region in image_regions:
        scores = [(word @ region).exp() for word in caption_words]
        shares.append([score / sum(scores) for score in scores])
    for t in range(word_count):
        weights = [(gamma1 * shares[r][t]).exp() for r in range(region_count)]
        context = sum(weight / sum(weights) * region for weight, region in zip(weights, image_regions, strict=True))
        total = total + (gamma2 * cosine(context, caption_words[t])).exp()
    return total.log()


def literal_loss(similarity, class_ids, gamma3):
    """Both directions of -log softmax of the true pair; ``similarity`` is images by captions."""
    count, loss = len(similarity), torch.zeros(())
    for i in range(count):
        allowed = [j for j in range(count) if j == i or class_ids is None or class_ids[i] != class_ids[j]]
        own = (gamma3 * similarity[i][i]).exp()
        loss = loss - (own / sum((gamma3 * similarity[i][j]).exp() for j in allowed)).log() / count
        loss = loss - (own / sum((gamma3 * similarity[j][i]).exp() for j in allowed)).log() / count
    return loss


CLASSES = [None, torch.tensor([0, 1, 2, 3]), torch.tensor([4, 7, 4, 7])]


@pytest.mark.parametrize("class_ids", CLASSES, ids=["none", "distinct", "repeated"])
@pytest.mark.parametrize("gammas", [(4.0, 5.0, 10.0), (1.0, 2.0, 3.0)])
def test_word_loss_and_gradients_equal_the_loops(features, class_ids, gammas):
    regions, words, mask = features
    gamma1, gamma2, gamma3 = gammas
    # In float64: the loops' exponentials overflow float32's range in their gradients.
    images = [list(image.double().flatten(1).T) for image in regions]
    captions = [list(caption.double()[:length]) for caption, length in zip(words, LENGTHS, strict=True)]
    similarity = [[literal_match(image, caption, gamma1, gamma2) for caption in captions] for image in images]
    expected = literal_loss(similarity, class_ids, gamma3)
    actual = word_loss(regions, words, mask, class_ids, gamma1=gamma1, gamma2=gamma2, gamma3=gamma3)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(actual, (regions, words))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (regions, words)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("class_ids", CLASSES, ids=["none", "distinct", "repeated"])
def test_sentence_loss_equals_the_loops(class_ids):
    torch.manual_seed(0)
    images, sentences = torch.randn(4, 6), torch.randn(4, 6)
    similarity = [[cosine(images[i], sentences[j]) for j in range(4)] for i in range(4)]
    torch.testing.assert_close(
        sentence_loss(images, sentences, class_ids, gamma3=7.0), literal_loss(similarity, class_ids, 7.0)
    )


def test_padding_words_change_nothing_and_get_no_gradient(features):
    regions, words, mask = features
    loss = word_loss(regions, words, mask, None)
    loss.backward()
    assert not words.grad[~mask].any()
    other = torch.where(mask[..., None], words, 50.0)
    torch.testing.assert_close(word_loss(regions, other, mask, None), loss)


def test_zero_features_give_finite_gradients(features):
    """Padding words of the text encoder are zeros, and so may be features at the start."""
    _, words, mask = features
    zeroed = torch.where(mask[..., None], words.detach(), 0.0).requires_grad_()
    regions = torch.zeros(4, 6, 3, 2, requires_grad=True)
    overall = torch.zeros(4, 6, requires_grad=True)
    (word_loss(regions, zeroed, mask, None) + sentence_loss(overall, zeroed[:, 0], None)).backward()
    assert all(tensor.grad.isfinite().all() for tensor in (regions, zeroed, overall))


def test_matching_pairs_have_a_low_loss():
    """Regions that are the words themselves against a shuffle of them; both near their limits."""
    words = 4 * torch.eye(6).reshape(3, 2, 6)
    regions = words.transpose(1, 2).unsqueeze(3)
    mask = torch.ones(3, 2, dtype=torch.bool)
    chance = 2 * math.log(3)
    assert word_loss(regions, words, mask, None) < 0.1 * chance
    assert word_loss(regions.roll(1, dims=0), words, mask, None) > chance
    assert sentence_loss(words[:, 0], words[:, 0], None) < 0.1 * chance
    assert sentence_loss(words[:, 0].roll(1, dims=0), words[:, 0], None) > chance


def test_autocast_losses_are_computed_in_float32(features):
    regions, words, mask = features
    plain = word_loss(regions, words, mask, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(word_loss(regions, words, mask, None), plain)
        assert sentence_loss(words[:, 0].bfloat16(), words[:, 1], None).dtype == torch.float32


def test_bad_input_is_named(features):
    regions, words, mask = features
    with pytest.raises(ValueError, match=r"regions is \(3, 6, 3, 2\) and words \(4, 5, 6\)"):
        word_loss(regions[:3], words, mask, None)
    with pytest.raises(ValueError, match=r"mask is \(4, 5\) torch.int64, expected \(4, 5\) torch.bool"):
        word_loss(regions, words, mask.long(), None)
    with pytest.raises(ValueError, match=r"global_features is \(4, 6\) and sentence \(3, 6\)"):
        sentence_loss(words[:, 0], words[:3, 0], None)
