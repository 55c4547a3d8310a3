"""KVMEM_BACKEND=triton python -m kvmgan.train, with a tiny model and in Triton's interpreter."""

from kvmem_training import assert_trains_as_eager


def test_training_with_triton_comes_to_the_losses_of_the_eager_form(interpreter, tiny_arguments, tmp_path):
    assert_trains_as_eager("triton", "kvmem_triton", 3, tiny_arguments, tmp_path, {"rel": 1e-5, "abs": 1e-6})
