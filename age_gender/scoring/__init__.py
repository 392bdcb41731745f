"""The exported model as LiteRT runs it, and the CSV of predictions."""
