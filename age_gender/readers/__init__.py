"""Read tables of embeddings in bounded memory: a reader for each format, and what they share."""
