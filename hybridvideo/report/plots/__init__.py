"""Figures as inline SVG, one file per kind."""
