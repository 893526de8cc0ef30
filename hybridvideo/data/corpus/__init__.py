"""A corpus as a collection of files: what of it decodes, what is not opened, and copies that load fast."""
