"""The visitor's region from the fields of an event that name a country and its subdivision. Pure.

It counts only under write keys of servers and imports (`WriteKey.kind`): a page cannot name its visitor's region.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from infra.parsing.region import region_of, region_within
from streams.collector.fields.repeated_keys import all_values

COUNTRY = ("country", "country_id", "country_code", "countryCode", "geo_country")
PART = ("region", "region_id", "region_code", "regionCode", "subdivision", "geo_region")
LOCATIONS = ("event_location", "user_location")
"""Objects of an event that contain the fields above; instead of an object the field may be a region itself."""

UNREADABLE = ""
UNKNOWN = "?"
"""A country code that matches no region."""
_FIELDS, _LOCATION_FIELDS = frozenset(COUNTRY + PART), frozenset(LOCATIONS)
_ANY = _FIELDS | _LOCATION_FIELDS


def merge_regions(sources: Iterable[Mapping[str, Any]]) -> str:
    """Return the region on which the sources agree; empty where none has one, one is unreadable, or two countries differ.

    Where they agree on the country only, return the country.
    """
    regions = {region for source in sources for region in _read_regions(source)}
    if len(regions) == 1:
        return regions.pop()
    countries = {region.partition("-")[0] for region in regions}
    if len(countries) != 1:
        return UNREADABLE
    parts = regions - countries
    return parts.pop() if len(parts) == 1 else countries.pop()


def read_region(*events: Mapping[str, Any]) -> str:
    """Return the region on which events agree, in their own fields and in their locations."""
    if all(_ANY.isdisjoint(event) for event in events):
        return UNREADABLE
    return merge_regions([*(location for event in events for location in read_locations(event)), *events])


def read_locations(source: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the locations of an event; a location that is no object is read as a region."""
    if _LOCATION_FIELDS.isdisjoint(source):
        return []
    return [
        normalise_location(value)
        for name in LOCATIONS
        for value in all_values(source, name)
        if value is not None and value != ""
    ]


def normalise_location(value: Any) -> Mapping[str, Any]:
    """Return a location as an object of the fields above. A subdivision without any country gets an unknown one."""
    if not isinstance(value, Mapping):
        return {"region": value}
    if _values(value, COUNTRY) or all("-" in part for part in _values(value, PART)):
        return value
    return {"country": UNKNOWN}


def _read_regions(source: Mapping[str, Any]) -> list[str]:
    if _FIELDS.isdisjoint(source):
        return []
    countries, parts = _values(source, COUNTRY), _values(source, PART)
    if not countries:
        return [region_of(part) for part in parts]
    return [region_within(country, part) for country in countries for part in parts or [""]]


def _values(source: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    values = [value for name in names if name in source for value in all_values(source, name)]
    return [value if isinstance(value, str) else UNKNOWN for value in values if value is not None and value != ""]


__all__ = ["merge_regions", "normalise_location", "read_locations", "read_region"]
