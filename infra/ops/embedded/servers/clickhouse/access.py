"""Users of the embedded ClickHouse: grants, parallel queries, and memory limits.

The engine has one user only. So each connection takes a role (grants) and a settings profile (limits), and the endpoint
refuses statements that would change them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from xml.sax.saxutils import escape

ANALYST_SLOTS = 4
LOADER_SLOTS = 4
QUEUE = 64
"""Maximum queries of one class that wait for a slot."""
ANALYST_SHARE = 0.6
"""Share of the engine's memory for all analysts' queries; the rest is for the loader's inserts."""
EXECUTION_S = 600
EXECUTION_LIMIT_S = 3_600
BODY_ROLE = "bodies"
"""Role that lets a rewritten INSERT read the memory file of its data."""

# Settings that open files or addresses, change the SQL dialect, or lift a limit. Statements cannot change them.
FIXED_SETTINGS = (
    "allow_experimental_polyglot_dialect",
    "dialect",
    "format_avro_schema_registry_url",
    "format_schema",
    "format_schema_source",
    "format_template_resultset",
    "format_template_row",
    "implicit_select",
    "input_format_record_errors_file_path",
    "max_untracked_memory",
    "memory_profiler_step",
    "output_format_schema",
    "rename_files_after_processing",
)
# Everything but sources (FILE, URL, S3, REMOTE, ...), BACKUP, named collections, users, and what stops the server.
WRITER_GRANTS = (
    "CHECK, SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE DICTIONARY, CREATE FUNCTION, "
    "CREATE TEMPORARY TABLE, DROP, UNDROP TABLE, TRUNCATE, OPTIMIZE, KILL QUERY, dictGet, INTROSPECTION, "
    "SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM RELOAD DICTIONARY, SYSTEM DROP CACHE, SYSTEM FLUSH, SYSTEM VIEWS, "
    "SYSTEM WAIT LOADING PARTS"
)
READER_GRANTS = "SHOW, SELECT, dictGet"


class QueryClass(Enum):
    """Owner of the slots that a query takes."""

    ANALYST = "analysts"
    LOADER = "the loader"


@dataclass(frozen=True)
class User:
    """Rights of a user: the role in the engine, the class of slots, whether `readonly` is on for every request."""

    name: str
    role: str
    query_class: QueryClass
    readonly: bool = False


USERS: Mapping[str, User] = {
    "default": User("default", "writer", QueryClass.ANALYST),
    "headwater": User("headwater", "writer", QueryClass.LOADER),
    "reader": User("reader", "reader", QueryClass.ANALYST, readonly=True),
}


def share_bytes(memory_bytes: int) -> int:
    """Return the memory per slot of an analyst's query, bytes."""
    return int(memory_bytes * ANALYST_SHARE / ANALYST_SLOTS)


def slots_for(user: User, settings: Mapping[str, str], memory_bytes: int) -> int:
    """Return the slots of a query. An analyst's query that requests more memory than one share takes several."""
    requested = settings.get("max_memory_usage", "")
    if user.query_class is QueryClass.LOADER or not requested.isdecimal():
        return 1
    return min(max(-(-int(requested) // share_bytes(memory_bytes)), 1), ANALYST_SLOTS)


def limits(user: User, slots: int, memory_bytes: int) -> dict[str, str]:
    """Return the initial settings of a user's query."""
    if user.query_class is QueryClass.LOADER:
        # Where memory is exhausted, the engine cancels other queries.
        return {"memory_overcommit_ratio_denominator": "0", "memory_overcommit_ratio_denominator_for_user": "0"}
    share = share_bytes(memory_bytes) * slots
    return {
        "max_memory_usage": str(share),
        "max_bytes_before_external_group_by": str(share // 2),
        "max_bytes_before_external_sort": str(share // 2),
        "max_execution_time": str(EXECUTION_S),
    }


def profile_name(slots: int) -> str:
    """Return the settings profile of an analyst's query."""
    return f"analyst_{slots}"


def users_xml(memory_bytes: int) -> str:
    """Return the engine's users file: one user without grants, the roles, and limits that no statement can lift."""
    fixed = "".join(f"<{name}><readonly/></{name}>" for name in FIXED_SETTINGS)
    profiles = "".join(_profile(slots, memory_bytes) for slots in range(1, ANALYST_SLOTS + 1))
    roles = {"writer": WRITER_GRANTS, "reader": READER_GRANTS, BODY_ROLE: "FILE"}
    grants = "".join(
        f"<{name}><grants><query>GRANT {escape(rights)} ON *.*</query></grants></{name}>" for name, rights in roles.items()
    )
    return (
        f"<clickhouse><profiles><default><implicit_select>0</implicit_select><constraints>{fixed}</constraints></default>"
        f"{profiles}</profiles><quotas><default/></quotas><roles>{grants}</roles><users><default><password/>"
        "<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>"
        f"<grants><query>GRANT {', '.join(roles)}</query></grants></default></users></clickhouse>\n"
    )


def _profile(slots: int, memory_bytes: int) -> str:
    bounds = {"max_memory_usage": share_bytes(memory_bytes) * slots, "max_execution_time": EXECUTION_LIMIT_S}
    constraints = "".join(f"<{name}><min>1</min><max>{most}</max></{name}>" for name, most in bounds.items())
    constants = "".join(f"<{name}><readonly/></{name}>" for name in ("memory_overcommit_ratio_denominator", "async_insert"))
    return f"<{profile_name(slots)}><constraints>{constraints}{constants}</constraints></{profile_name(slots)}>"
