"""Lossless compression of binary pictures with a bundle: bits-back coding (Townsend et al. 2019)."""
