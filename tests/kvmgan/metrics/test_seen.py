"""What networks see in pictures, batch by batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvmgan.metrics.seen import Watcher, rows_of, see

PICTURES = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 4)


def _look(pictures: Tensor) -> dict[str, Tensor]:
    assert pictures.dtype == torch.uint8
    return {"level": pictures[:, 0, 0, 0].float().requires_grad_(), "twice": 2 * pictures[:, 0, 0, :2].int()}


WATCHERS = [Watcher("one", "", _look), Watcher("other", "", _look)]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_are_put_together_in_order_for_every_watcher(batch_size):
    seen = see(PICTURES.split(batch_size), WATCHERS)
    assert list(seen) == ["one.level", "one.twice", "other.level", "other.twice"]
    for name in ("one", "other"):
        assert seen[f"{name}.level"].tolist() == [0, 1, 2, 3, 4]
        assert seen[f"{name}.twice"].tolist() == [[0, 0], [2, 2], [4, 4], [6, 6], [8, 8]]


def test_pictures_are_looked_at_one_batch_at_a_time():
    """Each batch is asked for after the one before was looked at by all: none is kept."""
    events = []

    def batches():
        for picture in PICTURES.split(1):
            events.append("made")
            yield picture

    def look(pictures: Tensor) -> dict[str, Tensor]:
        events.append("seen")
        return {"level": pictures[:, 0, 0, 0]}

    see(batches(), [Watcher("one", "", look), Watcher("other", "", look)])
    assert events == ["made", "seen", "seen"] * 5


def test_nothing_needs_a_gradient():
    with torch.no_grad():
        assert not see([PICTURES], [Watcher("one", "", lambda p: {"mean": p.float().mean(dim=(1, 2, 3))})])[
            "one.mean"
        ].requires_grad


def test_rows_can_be_taken_in_any_order_and_repeated():
    seen = rows_of(see([PICTURES], WATCHERS), torch.tensor([4, 1, 1]))
    assert seen["one.level"].tolist() == [4, 1, 1]
    assert seen["other.twice"].tolist() == [[8, 8], [2, 2], [2, 2]]
