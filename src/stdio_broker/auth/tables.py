"""The tables, as statements know them. What makes them is in `auth.migrations`; a test compares the two."""

from sqlalchemy import JSON, BigInteger, Column, Double, MetaData, String, Table, Text

__all__ = ["api_key", "change_counter", "metadata"]

metadata = MetaData()

#: Bearer keys, see `auth.keys.KeyRecord`. A row is never deleted: it tells who had access, and when.
api_key = Table(
    "api_key",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("principal", String(128), nullable=False, index=True),
    Column("servers", JSON(none_as_null=True)),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("note", Text, nullable=False),
)

#: How often each table was changed: one number to look at instead of all rows.
change_counter = Table(
    "change_counter",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
