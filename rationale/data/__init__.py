"""Tasks (rows plus a scorer), and how rows become batches."""
