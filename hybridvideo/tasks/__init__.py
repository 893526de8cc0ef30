"""One file per command: read the config, build the parts, call the engine, write the result."""
