"""Text-to-image synthesis with key-value memory GANs (KVM-GAN), built on :mod:`kvmem`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmgan.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]


def __getattr__(name: str) -> Any:
    """``kvmgan.Pipeline``, read when it is asked for: torch takes seconds, which ``kvmgan --help`` needn't wait for."""
    if name == "Pipeline":
        from kvmgan.pipeline.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
