"""A short training on the GPU with the backend of the environment."""

import json

import pytest
from kvmem_problems import CalledOperators

STEPS = 6


@pytest.fixture
def train(tiny_arguments, tmp_path, monkeypatch):
    """A function that trains with KVMEM_BACKEND set, and returns the statistics of every step."""
    module = pytest.importorskip("kvmgan.train")
    settings = ["--training.device", "cuda", "--training.log-interval", "1", "--training.steps", str(STEPS)]

    def run(backend: str) -> list[dict]:
        monkeypatch.setenv("KVMEM_BACKEND", backend)
        runs = tmp_path / backend
        assert module.main([*tiny_arguments, *settings, "--runs-dir", str(runs)]) == 0
        (folder,) = runs.iterdir()
        return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]

    return run


def test_the_environments_backend_trains_as_the_eager_form_does(train, backend, namespace):
    """A tiny model with one memory layer: its training and evaluation run the backend's operators alone."""
    expected = train("eager")
    with CalledOperators() as called:
        found = train(backend)
    assert called.names.count(f"{namespace}::kv_memory") > STEPS
    assert called.names.count(f"{namespace}::kv_memory_backward") == STEPS
    assert {name.split("::")[0] for name in called.names if name.startswith("kvmem")} == {namespace}
    assert called.arguments[f"{namespace}::kv_memory"][0].is_cuda
    assert [step["step"] for step in found] == list(range(1, STEPS + 1))
    for step, reference in zip(found, expected, strict=True):
        losses = {name: value for name, value in reference.items() if name not in ("time", "images_per_second")}
        # Convolutions in TF32, and sums in no fixed order, differ from run to run.
        assert {name: step[name] for name in losses} == pytest.approx(losses, rel=0.05, abs=1e-3)
