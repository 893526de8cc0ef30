"""The commands: their signatures, and how options are read."""
