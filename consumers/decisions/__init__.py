"""The decisions API: answers widgets with an arm and logs the probability with which it was drawn."""
