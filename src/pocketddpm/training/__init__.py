"""Training: the trainer, the weight average, and where data and processes meet."""
