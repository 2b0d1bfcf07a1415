"""The README's table of topics equals the table in the code."""

import re

from infra.settings import PACKAGED_CONTRACTS
from schemas.registry import Registry
from schemas.topics import TOPICS, Topic

FOLDER = PACKAGED_CONTRACTS.parent


def row(topic: Topic) -> str:
    """One topic as the README shows it."""
    retention = f"{topic.retention_days} days" if topic.retention_days else "compacted"
    partitions = "one" if topic.spread == "one" else "as configured"
    record = Registry(PACKAGED_CONTRACTS).latest(topic.name).schema["name"]
    key = topic.key.replace("|", "\\|")
    return f"| `{topic.name}` | {key} | {retention} | {partitions} | {record} |"


def test_the_table_of_topics_is_the_one_in_the_code() -> None:
    """To write it anew, paste what this assertion expects."""
    text = (FOLDER / "README.md").read_text()
    match = re.search(r"<!-- topics: .*? -->\n(.*?)<!-- /topics -->", text, re.DOTALL)
    assert match
    assert match.group(1).splitlines()[2:] == [row(topic) for topic in TOPICS.values()]


def test_every_file_is_introduced() -> None:
    """A reader who has only the README finds the file."""
    text = (FOLDER / "README.md").read_text()
    for file in FOLDER.glob("*.py"):
        assert file.name == "__init__.py" or f"`{file.name}`" in text
