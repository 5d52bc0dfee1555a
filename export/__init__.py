"""From a checkpoint to a bundle: deploy (static-weight form), trace (ONNX), build (engines), parity, bundle."""
