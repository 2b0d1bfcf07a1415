"""Decisions: answers widgets with an arm, logs the probability it was drawn with, and never makes a page wait."""
