"""Reference networks in PyTorch: one file per paper, the published parameter names, the paper's own formulation."""
