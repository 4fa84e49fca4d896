"""Hooks: programs and web services that change a credential where it is checked."""
