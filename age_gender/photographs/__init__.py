"""Image files, the faces in them as aligned chips, and the networks that embed these."""
