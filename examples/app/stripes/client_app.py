"""The ClientApp is the strategy's own: what leaves a client is what it, and the owner's policy, let leave."""

from collafuse_flwr.client_app import app

__all__ = ["app"]
