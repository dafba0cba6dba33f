"""The run wing over HTTP."""
