"""The ground floor: files, optional packages, forward passes, contexts, names and sums for all."""
