"""The domain: carts, and every operation on them. No Flask, no driver, no clock."""
