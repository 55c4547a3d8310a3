"""Files of tensors: safetensors, and what `torch.save` wrote; no code in them is run."""
