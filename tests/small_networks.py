"""Arguments of small networks of every kind."""

# Other shapes than the default ones, so that what is inferred is not the default by accident.
OTHERS = {
    "encoder": {"n_style": 10, "style_dim": 64},
    "discriminator": {"resolution": 32, "channel_multiplier": 0.125, "channel_max": 64},
    "multires-discriminator": {
        "resolution": 64,
        "channel_multiplier": 0.0625,
        "channel_max": 48,
        "n_res": 2,
        "modulate": True,
    },
    "context-encoder-256": {"bottleneck": 100},
    "gans-n-roses": {
        "size": 64,
        "num_down": 2,
        "latent_dim": 6,
        "n_mlp": 3,
        "n_res": 2,
        "channels": {4: 24, 8: 20, 16: 16, 32: 12, 64: 8},
    },
    "dcgan": {"nz": 20, "features": 8, "channels": 1},
    "lsgan": {"nz": 20, "features": 8, "channels": 1},
    "mnist-cnn": {"nz": 30, "features": 16},
    "mnist-digits": {"nz": 30, "features": 8},
    "mlp-gan": {"nz": 64},
    "cyclegan": {"features": 8, "blocks": 6},
    "discogan": {"extra_layers": False},
    "stylegan1": {"code_dim": 64, "n_mlp": 3, "blocks": 5},
    "transgan": {"dim": 64, "depth": [2, 1, 3], "latent_dim": 40, "width": 8},
    "tagger": {"tags": 12},
}
