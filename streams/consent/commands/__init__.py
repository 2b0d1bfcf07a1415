"""Commands of the consent room beside its worker."""
