"""Read and write tables of embeddings, one file per format, in bounded memory."""
