"""Networks for programs that do not have this package: ONNX, StableHLO, folders for a hub."""
