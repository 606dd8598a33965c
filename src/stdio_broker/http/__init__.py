"""EDGE: the MCP endpoint over HTTP, its guards, and the server that carries it."""

from .app import App
from .endpoint import McpEndpoint
from .guards import host_of
from .server import HttpServer, bind
from .settings import LOOPBACK_HOSTS, Settings

__all__ = ["LOOPBACK_HOSTS", "App", "HttpServer", "McpEndpoint", "Settings", "bind", "host_of"]
