"""The benchmark: what it computes and shows. Its servers and wrk run in ``make bench`` only."""
