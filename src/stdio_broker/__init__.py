"""stdio-broker: stdio MCP servers for many users over HTTP, each with a supervised child of their own."""

__version__ = "0.1.0"
