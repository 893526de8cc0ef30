"""The commands: light signatures by group, what their options mean, and one table of them all."""
