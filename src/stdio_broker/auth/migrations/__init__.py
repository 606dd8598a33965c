"""The history of the tables, run by Alembic: forwards only. A version that was released is never changed."""
