"""Settings of an installation, read once at the start of a command.

Sources by precedence: `HEADWATER_*` environment variables, `<state_dir>/house.json` (written by `headwater up`, so that
other commands find the running services), defaults.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from infra.errors import ConfigError
from infra.secrets import Secret

PACKAGED_CONTRACTS = Path(__file__).resolve().parent.parent / "schemas" / "contracts"


class Settings(BaseSettings):
    """One installation's addresses, files and secrets. Build it with `load_settings`, which raises readable errors."""

    model_config = SettingsConfigDict(env_prefix="HEADWATER_", extra="forbid", frozen=True)

    kafka: str = Field("127.0.0.1:9092", description="bootstrap servers, host:port, comma separated")
    kafka_options: dict[str, str] = Field({}, description="librdkafka options for every client, e.g. TLS and SASL, as JSON")
    replication: int = Field(1, ge=1, description="replication factor of the topics that `topics apply` creates")
    partitions: int = Field(4, ge=1, description="partitions of the event topics that `topics apply` creates")
    redis: str = Field(
        "redis://127.0.0.1:6379/0", pattern=r"^(rediss?|unix)://", description="Redis URL; one Redis, for every room"
    )
    identity_redis: str | None = Field(
        None,
        pattern=r"^((cluster\+)?rediss?|unix)://",
        description="Redis URL of the identity graph alone, or cluster+redis://host:port,host:port; `redis` when absent",
    )
    clickhouse: str = Field("http://127.0.0.1:8123", description="ClickHouse HTTP interface; user and password in the URL")
    clickhouse_database: str = "headwater"
    schema_registry: str | None = Field(None, description="Confluent-compatible registry to push contracts to")

    contracts: Path = Field(PACKAGED_CONTRACTS, description="folder of *.avsc and lock.json")
    policy: Path | None = Field(None, description="consent policy (YAML); the packaged one when absent")
    gvl: Path | None = Field(None, description="folder of imported Global Vendor Lists; <state_dir>/gvl when absent")
    write_keys: Path | None = Field(None, description="hashed write keys (JSON); <state_dir>/write-keys.json when absent")
    secret: SecretStr | None = Field(None, description="master secret, at least 32 characters")
    node_key_version: int = Field(
        1, ge=1, le=99, description="version of the keys of pseudonyms; a higher one alone makes everybody somebody new"
    )
    node_key_since: int | None = Field(
        None, ge=1, description="oldest version that is sent beside it, so that everybody stays who they are"
    )
    secret_file: Path | None = Field(None, description="file that holds the master secret; <state_dir>/secret when absent")
    state_dir: Path = Field(Path(".headwater"), description="what outlives a restart: spool, key ring, embedded data")

    collector_url: str = "http://127.0.0.1:8080"
    decisions_url: str = "http://127.0.0.1:8081"
    gauge_url: str = "http://127.0.0.1:8082"
    ops_token: SecretStr | None = Field(None, description="token of the ops page and the privacy commands")

    decision_origins: list[str] = Field([], description="origins of pages that may ask for decisions, as JSON")
    decision_rate: float = Field(200.0, gt=0, description="decisions a second that one address may ask for; loopback is exempt")
    trusted_proxies: int = Field(
        0, ge=0, le=10, description="proxies in front of collector and decisions that append to X-Forwarded-For; 0 = none"
    )
    cors_origins: str = Field("", description="origins of pages that may send to the collector, comma separated")
    region_header: str = Field("", description="header in which a trusted proxy sets the visitor's region; empty = none")

    privacy_sla_s: float = Field(86_400.0, gt=0, description="time that rooms have to do their part of a withdrawal")
    slot: str = Field("0", description="this worker's place in its group; static membership and transactions hang on it")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of a worker's /metrics; 0 = none")
    metrics_host: str = Field("127.0.0.1", description="address of a worker's /metrics; loopback unless told otherwise")
    commit_interval_s: float = Field(0.1, gt=0, le=5)
    batch_records: int = Field(20_000, ge=1, le=100_000, description="records polled at once, at the most")
    session_timeout_s: float = Field(6.0, ge=1, description="how long a stopped worker keeps its partitions")
    transaction_timeout_s: float = Field(30.0, ge=1)
    dead_letter_limit: float = Field(0.5, gt=0, le=1, description="share of dead letters in 1,000 records that halts a room")
    overrides_interval_s: float = Field(
        60.0, ge=0, description="the warehouse maps history to today's identity so often; 0 = never"
    )
    squash_every_days: float = Field(
        7.0, ge=0, le=30, description="the warehouse rewrites old rows' identity so often; 0 = never"
    )
    squash_after_days: float = Field(7.0, ge=0, description="younger rows keep the profile id that they were stamped with")
    verify_interval_s: float = Field(
        3_600.0, ge=0, description="the warehouse compares its new rows with Kafka's records so often; 0 = never"
    )
    stuck_after_s: float = Field(60.0, gt=0, description="a partition with records and without progress restarts its worker")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings gives all five
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use arguments and the environment; no dotenv and no secrets folder."""
        return init_settings, env_settings

    @field_validator("node_key_since")
    @classmethod
    def _not_newer(cls, since: int | None, others: ValidationInfo) -> int | None:
        if since is not None and since > others.data.get("node_key_version", since):
            raise ValueError("is newer than HEADWATER_NODE_KEY_VERSION")
        return since

    @cached_property
    def master(self) -> Secret:
        """The master secret, from which every key is derived. ConfigError where it is missing or too short."""
        if self.secret is not None:
            return Secret(self.secret.get_secret_value())
        file = self.secret_file or self.state_dir / "secret"
        try:
            return Secret(file.read_text().strip())
        except FileNotFoundError:
            raise ConfigError(
                f"no master secret: set HEADWATER_SECRET or HEADWATER_SECRET_FILE, or write at least 32 characters to {file} "
                "(`headwater up` makes one)"
            ) from None

    @property
    def write_keys_file(self) -> Path:
        """File of the hashed write keys."""
        return self.write_keys or self.state_dir / "write-keys.json"

    @property
    def gvl_dir(self) -> Path:
        """Folder of the imported Global Vendor Lists."""
        return self.gvl or self.state_dir / "gvl"

    @property
    def keyring_dir(self) -> Path:
        """Folder of the daily payload keys' salts. Deleting a salt destroys that day's payloads."""
        return self.state_dir / "keyring"

    def kafka_config(self, **options: Any) -> dict[str, Any]:
        """Return librdkafka's configuration: address, the installation's options, then the caller's (with `_` for dots)."""
        caller_options = {name.replace("_", "."): value for name, value in options.items()}
        return {"bootstrap.servers": self.kafka, **self.kafka_options, **caller_options}


def house_file(state_dir: Path) -> Path:
    """Return the file in which `headwater up` writes the addresses of the running services."""
    return state_dir / "house.json"


def load_settings(**overrides: Any) -> Settings:
    """Load the settings. ConfigError names the invalid variable and the expected value."""
    try:
        state_dir = Settings(**overrides).state_dir
        file = house_file(state_dir)
        if not file.exists():
            return Settings(**overrides)
        house = json.loads(file.read_text())
        from_environment = Settings(**overrides).model_fields_set
        return Settings(**{**{k: v for k, v in house.items() if k not in from_environment}, **overrides})
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        # An address may contain a password.
        value_text = "" if "@" in str(first["input"]) else f" (got {first['input']!r:.80})"
        raise ConfigError(f"HEADWATER_{name}: {first['msg']}{value_text}") from None
