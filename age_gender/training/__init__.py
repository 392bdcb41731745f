"""Prepare training data (TFRecords, near-duplicates, crops, batches), and calibrate the outputs."""
