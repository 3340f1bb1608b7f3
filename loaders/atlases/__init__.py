"""Generated atlases: chunks, assembly, the finished atlas read back and verified."""
