"""NVIDIA GPUs: devices, arrays on them, and the engines of TensorRT, TensorRT-RTX and our own kernels.

Importing these modules needs neither a driver nor a package; only using a device does.
"""
