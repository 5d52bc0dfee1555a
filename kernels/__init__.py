"""Fused kernels of the elastic generator in Triton: one folder an operator, with its plain reference, its launches and the least
it must move; compiled ahead of time to machine code, run by the backend ``cuda`` and as TensorRT plugins."""
