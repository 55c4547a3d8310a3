"""The networks whose features, logits and embeddings metrics are computed on."""
