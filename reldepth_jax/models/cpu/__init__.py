"""Hand-written forms of convolutions for CPU."""
