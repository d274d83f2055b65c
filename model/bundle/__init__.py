"""The contract between training and serving: an exported VAE on disk. No torch, no web framework."""
