"""Benchmarks, metrics, describe-and-respond."""
