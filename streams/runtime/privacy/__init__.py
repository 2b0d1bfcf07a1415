"""Privacy requests: each room reads them, handles its own data and acknowledges them."""
