"""The Triton kernels. Imports nothing: Triton is imported where a call needs it."""
