"""The API, through Flask's test client."""
