"""Score embeddings: choose and run a model, compare labels with it, write predictions."""
