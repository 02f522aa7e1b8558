"""The domain: what a cart is, and everything one can do with it. No Flask, no driver, no clock."""
