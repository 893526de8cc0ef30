"""Worker processes that read videos and may be killed, and tensors sent between processes."""
