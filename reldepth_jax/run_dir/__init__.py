"""The run directory: its layout, lock, history, checkpoints, and what inspects them."""
