"""The client side of every algorithm, and the client's own disk."""
