"""Training data: TFRecords, near-duplicates, augmentation by crops, batches."""
