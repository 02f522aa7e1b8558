"""Identify the caller and decide which carts a caller may access: a token in, a Caller out. No Flask."""
