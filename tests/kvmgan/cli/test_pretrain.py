"""The pretrain command."""

from __future__ import annotations

from pathlib import Path

from kvmgan import pretrain


def test_pretrain_fills_the_cache_that_training_reads(tiny_run, tiny_arguments, capsys):
    cache = Path(tiny_arguments[-1])
    before = sorted(cache.iterdir())
    assert pretrain.main(tiny_arguments) == 0
    output = capsys.readouterr().out
    assert sorted(cache.iterdir()) == before
    assert "real" in output and "R-precision %" in output
