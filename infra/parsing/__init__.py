"""Times, regions and sites as senders write them."""
