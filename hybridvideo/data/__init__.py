"""From video files to batches on a device; torch is imported by the modules, not here."""
