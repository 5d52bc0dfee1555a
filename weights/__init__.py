"""Reading checkpoints safely, the catalogue of named models, and the embedded model."""
