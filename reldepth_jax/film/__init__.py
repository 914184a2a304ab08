"""Films: maps that do not flicker, in a film of colours beside the original."""
