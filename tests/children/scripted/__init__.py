"""What `mcp_child.py` is made of: a package, because Python caches compiled modules but never a program."""
