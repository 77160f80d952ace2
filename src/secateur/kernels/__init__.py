"""What is compiled: C on a CPU, Triton on a GPU, and who runs which."""
