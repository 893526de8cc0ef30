"""Inference: videos in, rows out."""
