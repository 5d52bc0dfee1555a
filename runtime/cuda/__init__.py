"""NVIDIA GPUs: devices, arrays on them, and the engines of TensorRT and TensorRT-RTX.

Importing these modules needs neither a driver nor a package; only using a device does.
"""
