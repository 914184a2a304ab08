"""Training: state, optimiser, step, loop, records."""
