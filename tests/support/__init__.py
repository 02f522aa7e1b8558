"""What the tests share: clocks, stores that fail, servers, clients."""
