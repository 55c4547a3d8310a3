"""The training loop and its state: pretraining, adversarial steps, checkpoints, run folders."""
