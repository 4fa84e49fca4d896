"""Cryptography of records and of the seal file: envelope, keyring, unlock."""
