"""Tables of embeddings in and out, a file a format, in bounded memory."""
