"""One file for each step; Alembic finds and orders them."""
