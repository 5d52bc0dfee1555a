"""The embedded avatar model: rendered data, training, shipping. See README.md beside this file."""
