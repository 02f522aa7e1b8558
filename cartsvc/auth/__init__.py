"""Who the caller is and what they may access: a token in, a Caller out. No Flask."""
