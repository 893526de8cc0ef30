"""Videos to rows."""
