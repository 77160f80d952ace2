"""Penalties and optimizers of other people's that the library is compared with."""
