"""Arrays in chunks: decoded, mapped, kept, and the compiled loops over their elements."""
