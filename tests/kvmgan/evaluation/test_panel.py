"""Which metrics and whose features an evaluation has."""

from __future__ import annotations

import pytest

from kvmgan.errors import UserError
from kvmgan.evaluation import panel as module
from kvmgan.evaluation.panel import METRICS, PROTOCOLS, build_panel, parse_metrics, settle_protocol
from kvmgan.metrics.extractors.inception import TENSORFLOW

LITE = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Nothing downloaded before is found, and every package is there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(module.efficientnet_lite0, "is_installed", lambda: True)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())


def test_names_are_read_in_their_order_and_once():
    assert parse_metrics("is, fid,is") == ("is", "fid")
    assert parse_metrics(",".join(METRICS)) == METRICS
    assert parse_metrics("auto") is None


def test_auto_is_what_needs_no_download(tmp_path):
    others = ("prc", "diversity", "r-precision", "attributes")
    assert settle_protocol(None, "auto", tmp_path) == (("fd", "kd", *others), LITE)
    (tmp_path / TENSORFLOW.rsplit("/", 1)[1]).touch()
    assert settle_protocol(None, "auto", tmp_path) == (("fid", "kid", "is", *others), "tf")
    assert settle_protocol(None, "legacy-dmgan", tmp_path)[0] == ("fid", "kid", *others)
    assert settle_protocol(None, LITE, tmp_path)[0] == ("fd", "kd", *others)


def test_auto_follows_what_is_asked_for(tmp_path):
    """A metric of Inception's asks for Inception, whether its weights are there or not; fd for other features."""
    assert settle_protocol(("prc", "fid"), "auto", tmp_path)[1] == "tf"
    (tmp_path / TENSORFLOW.rsplit("/", 1)[1]).touch()
    assert settle_protocol(("fd",), "auto", tmp_path)[1] == LITE
    assert settle_protocol(("prc",), "auto", tmp_path)[1] == "tf"


def test_without_the_packages_the_run_judges_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module.efficientnet_lite0, "is_installed", lambda: False)
    assert settle_protocol(None, "auto", tmp_path)[1] == "damsm"
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert settle_protocol(None, "auto", tmp_path) == (("diversity", "r-precision", "attributes"), "damsm")
    assert "pip install -e '.[eval]'" in capsys.readouterr().out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_distance_is_called_fid_by_inception_alone(tmp_path, metric, protocol):
    of_inception = protocol in ("tf", "clean", "legacy-dmgan")
    wrong = {"fid": not of_inception, "kid": not of_inception, "fd": of_inception, "kd": of_inception}
    wrong["is"] = protocol not in ("tf", "clean")
    if wrong.get(metric, False):
        with pytest.raises(UserError, match=f"^--metrics {metric} .*--protocol"):
            settle_protocol((metric,), protocol, tmp_path)
    else:
        assert settle_protocol((metric,), protocol, tmp_path) == ((metric,), protocol)


def test_only_what_is_needed_is_loaded(tmp_path, monkeypatch):
    """R-precision loads nothing; a diversity by the run's own encoder neither."""
    for name in ("inception", "efficientnet_lite0", "huggingface"):
        monkeypatch.setattr(module, name, None)
    plain = build_panel(("r-precision",), LITE, tmp_path, None, captions=1, draws=2)
    assert (plain.features, plain.dinov2, plain.clip) == (None, None, None)
    monkeypatch.undo()
    assert build_panel(("diversity",), "damsm", tmp_path, None, captions=1, draws=2).features is None
