"""The weights that ship with the project."""
