"""A trained model: its checkpoint, its labels, sampling and editing."""
