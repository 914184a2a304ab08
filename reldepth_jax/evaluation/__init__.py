"""How well a network orders points: held-out pairs, published protocols, comparisons."""
