"""Strongroom's manager side: the sealed store, the identities and what hands secrets out."""
