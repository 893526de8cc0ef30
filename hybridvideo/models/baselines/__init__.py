"""3-D CNNs and transformers of other libraries, under this project's contract."""
