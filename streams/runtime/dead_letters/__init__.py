"""Dead letters: written by every stage, listed and replayed by `headwater dead`."""
