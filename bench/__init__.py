"""What cartsvc costs, measured side by side with the least that could answer."""
