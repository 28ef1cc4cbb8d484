"""gRPC handlers: read the request, call the domain, convert the answer."""
