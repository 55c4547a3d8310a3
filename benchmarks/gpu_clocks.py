"""The GPU's clocks while it measures, from nvidia-smi: a time means little without them."""

import shutil
import subprocess

import torch

# Megahertz, degrees Celsius, watts; throttling is a mask of bits, 0 where nothing holds the clocks back.
QUERY = {
    "multiprocessors_mhz": "clocks.sm",
    "most_multiprocessors_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "throttling": "clocks_throttle_reasons.active",
    "celsius": "temperature.gpu",
    "watts": "power.draw",
}


def read_clocks() -> dict[str, str] | None:
    """What nvidia-smi says of the current GPU, as it says it; None where there is no such program or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader,nounits"]
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    command += [f"--id=GPU-{uuid}"] if uuid else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout.strip() else []
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else None
