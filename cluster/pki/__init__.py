"""Certificates, trust bundles, join tokens and TLS contexts."""
