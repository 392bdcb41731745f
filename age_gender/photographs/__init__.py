"""Read images, detect and align faces, and embed them."""
