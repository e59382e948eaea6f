"""Neural architecture search: search, derive and retrain networks on real images."""

__version__ = "0.1.0"
