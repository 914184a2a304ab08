"""Files of weights: read safely, matched strictly, written with what they are."""
