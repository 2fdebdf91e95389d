"""Plumbing without a domain word, shared by every floor."""
