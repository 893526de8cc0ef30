"""3-D CNNs and transformers of the libraries, under this project's contract."""
