"""The network: encoder, decoder with residual fusion, adaptive output."""
