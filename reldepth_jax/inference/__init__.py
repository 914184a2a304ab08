"""Networks with weights, and photographs through them."""
