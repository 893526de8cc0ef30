"""The checks behind `prove_gpu.py`: what must hold on a GPU, one small function each."""
