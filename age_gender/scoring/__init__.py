"""Run the exported model by LiteRT, and write the CSV of predictions."""
