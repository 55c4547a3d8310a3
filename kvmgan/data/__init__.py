"""Captioned images: readers, vocabulary, dataset, batches and the procedural birds."""
