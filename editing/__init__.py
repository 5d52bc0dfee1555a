"""Editing by directions in the style space: finding them, keeping them, applying them and measuring them. No PyTorch."""
