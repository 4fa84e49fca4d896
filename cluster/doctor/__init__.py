"""What a manager and its machine can protect, check by check. Looks, and changes nothing."""
