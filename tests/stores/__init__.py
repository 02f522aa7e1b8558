"""The contract of all stores on each of them, and what each one adds."""
