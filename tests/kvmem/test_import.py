"""What `import kvmem` brings along."""

import subprocess
import sys


def test_importing_the_layer_imports_no_compiler():
    """Dynamo and sympy take a second and more; Triton is imported when its backend is asked for."""
    script = """
import sys, torch
before = set(sys.modules)
import kvmem
for name in ("torch._dynamo", "torch._inductor", "sympy", "triton", "functorch"):
    assert name in before or name not in sys.modules, name
assert kvmem.KVMemoryLayer and kvmem.backends
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
