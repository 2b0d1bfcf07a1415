"""Settings of an installation, read once at the start of a command."""

from infra.settings.loading import house_file, load_settings
from infra.settings.model import PACKAGED_CONTRACTS, Settings
from infra.settings.urls import without_login

__all__ = ["PACKAGED_CONTRACTS", "Settings", "house_file", "load_settings", "without_login"]
