"""Pairs and instruction data in the formats of other tools, in both directions; no torch, no ray."""
