"""Weights: this project's checkpoint folders, and those of others by layout; strict unless asked otherwise."""
