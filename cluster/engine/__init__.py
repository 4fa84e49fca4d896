"""Storage engines behind one seam; they only ever see ciphertext under blinded keys."""

import os

# Read by gRPC when it is imported. Our children exec at once: its fork handlers could only warn.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
