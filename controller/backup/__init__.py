"""A controller's data directory as one file, and back."""
