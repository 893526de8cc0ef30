"""Weights on disk: this project's checkpoint folders, and loading into a model (strict unless asked otherwise)."""
