"""From image files to chips of faces and their embeddings."""
