"""Objects to bytes and back, for keys and for values. Nothing here knows files."""
