"""Where the numbers and pictures of a training go, beside its JSON lines: one module for each."""
