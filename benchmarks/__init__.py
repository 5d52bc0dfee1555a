"""Benchmarks: every claim about speed comes from here, as ratios between contenders of one run."""
