"""The mathematics of uqlib: arrays in, arrays out, NumPy only."""
