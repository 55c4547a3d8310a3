"""A short training on the GPU with the backend of the environment."""

from kvmem_training import assert_trains_as_eager


def test_the_environments_backend_trains_as_the_eager_form_does(tiny_arguments, tmp_path, backend, namespace):
    arguments = [*tiny_arguments, "--training.device", "cuda"]
    # Convolutions in TF32, and sums in no fixed order, differ from run to run.
    called = assert_trains_as_eager(backend, namespace, 6, arguments, tmp_path, {"rel": 0.05, "abs": 1e-3})
    assert called.arguments[f"{namespace}::kv_memory"][0].is_cuda
