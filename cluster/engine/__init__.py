"""Storage engines behind one seam; they only ever see ciphertext under blinded keys."""
