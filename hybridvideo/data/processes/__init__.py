"""Reading in processes that may be killed, and tensors between them."""
