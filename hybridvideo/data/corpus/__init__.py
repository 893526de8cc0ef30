"""A corpus as a collection of files: what decodes, what is not opened, and copies that load fast."""
