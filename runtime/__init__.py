"""What an edge device runs: open a bundle, profile it, choose an engine for a budget, make images, verify. No PyTorch."""
