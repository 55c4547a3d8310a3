"""The attribute classifier."""

import pytest
import torch
import torch.nn.functional as F

from kvmgan.errors import UserError
from kvmgan.models.attribute_classifier import AttributeClassifier

# "keys" and "type" are also names that PyTorch's own containers refuse.
CARDINALITIES = {"wing": 3, "keys": 2, "type": 4}


@pytest.mark.parametrize("size", [16, 64, 100])
def test_one_set_of_logits_an_attribute(size):
    logits = AttributeClassifier(CARDINALITIES, width=2)(torch.randn(5, 3, size, size))
    assert {name: tuple(values.shape) for name, values in logits.items()} == {
        "wing": (5, 3),
        "keys": (5, 2),
        "type": (5, 4),
    }


def test_gradients_reach_every_parameter():
    classifier = AttributeClassifier(CARDINALITIES, width=2)
    sum(logits.square().sum() for logits in classifier(torch.randn(5, 3, 32, 32)).values()).backward()
    assert all(parameter.grad.any() for parameter in classifier.parameters())


def test_it_learns_where_a_colour_is():
    """The same two colours left and right or right and left: averages over the image can't tell."""
    labels = torch.arange(16) % 2
    images = torch.full((16, 3, 32, 32), -1.0)
    images[labels == 0, 0, :, :16] = 1.0
    images[labels == 1, 0, :, 16:] = 1.0
    classifier = AttributeClassifier({"side": 2}, width=4)
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(classifier(images)["side"], labels).backward()
        optimizer.step()
    assert (classifier(images)["side"].argmax(dim=1) == labels).all()


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"cardinalities is \{\}"):
        AttributeClassifier({})
    with pytest.raises(UserError, match="'wing': 1"):
        AttributeClassifier({"wing": 1})
    with pytest.raises(ValueError, match=r"images is \(1, 3, 8, 8\)"):
        AttributeClassifier(CARDINALITIES, width=2)(torch.randn(1, 3, 8, 8))
