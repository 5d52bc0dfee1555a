"""The server: one process that answers HTTP, and worker processes that run the engines. docs/server.md."""
