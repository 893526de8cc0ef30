"""Parts that several pages share. Each returns blocks, or none if there is nothing to show."""
