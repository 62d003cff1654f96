"""Who runs a call: processes here, or a cluster. Nothing here can change a result."""
