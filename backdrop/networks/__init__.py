"""The networks and the folders that hold them."""
