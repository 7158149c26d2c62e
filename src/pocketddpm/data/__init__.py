"""Images on their way from files to tensors."""
