"""A corpus as a whole: what of it decodes, what is left alone, copies that load fast."""
