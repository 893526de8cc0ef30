"""One self-contained HTML page per result: it opens offline, in light and in dark, and loads nothing."""
