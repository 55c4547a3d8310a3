"""The adversarial training: its data, loop, step, state, checkpoints and evaluation."""
