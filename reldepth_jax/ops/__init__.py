"""Pure array functions: no Flax, no state."""
