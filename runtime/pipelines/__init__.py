"""What the networks beside the generator are for: pictures in, codes, names and pictures out. A file each.

Every function takes a network of the bundle (``anycost.runtime.networks.LoadedNetwork``) and plain values.
"""
