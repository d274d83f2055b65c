"""Bundles whose graphs compute in less than float32: how they are made, what that costs, and how it is told."""
