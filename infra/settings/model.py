"""The table of settings: one field, one `HEADWATER_*` variable."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from infra.errors import ConfigError
from infra.parsing.environment import clean_value
from infra.secrets import Secret
from infra.settings.secret_files import check_plain, read_secret
from infra.settings.urls import check_graph_url, check_http_url, check_redis_url
from infra.settings.values import read_brokers, read_kafka_options, read_origin_texts, read_origins

PACKAGED_CONTRACTS = Path(__file__).resolve().parents[2] / "schemas" / "contracts"

Brokers = Annotated[str, AfterValidator(read_brokers)]
HttpUrl = Annotated[str, AfterValidator(check_http_url)]
RedisUrl = Annotated[str, AfterValidator(check_redis_url)]
GraphUrl = Annotated[str, AfterValidator(check_graph_url)]
# NoDecode: pydantic-settings would insist on JSON and fail before a validator sees the value.
KafkaOptions = Annotated[dict[str, str], NoDecode, BeforeValidator(read_kafka_options)]
Origins = Annotated[list[str], NoDecode, BeforeValidator(read_origins)]


class Settings(BaseSettings):
    """One installation's addresses, files and secrets. Build it with `load_settings`, which raises readable errors."""

    model_config = SettingsConfigDict(
        env_prefix="HEADWATER_", env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    kafka: Brokers = Field("127.0.0.1:9092", description="bootstrap servers, host:port, comma separated")
    kafka_options: KafkaOptions = Field(
        {}, description="librdkafka options for every client, e.g. TLS and SASL: a JSON object, or key=value,key=value"
    )
    replication: int = Field(1, ge=1, description="replication factor of the topics that `topics apply` creates")
    partitions: int = Field(4, ge=1, description="partitions of the event topics that `topics apply` creates")
    redis: RedisUrl = Field(
        "redis://127.0.0.1:6379/0", description="Redis URL; one Redis, for every room; user and password percent-encoded"
    )
    identity_redis: GraphUrl | None = Field(
        None,
        description="Redis URL of the identity graph alone, or cluster+redis://host:port,host:port; `redis` when absent",
    )
    clickhouse: HttpUrl = Field(
        "http://127.0.0.1:8123", description="ClickHouse HTTP interface; user and password in the URL, percent-encoded"
    )
    clickhouse_database: str = "headwater"
    schema_registry: HttpUrl | None = Field(None, description="Confluent-compatible registry to push contracts to")

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

    collector_url: HttpUrl = "http://127.0.0.1:8080"
    decisions_url: HttpUrl = "http://127.0.0.1:8081"
    gauge_url: HttpUrl = "http://127.0.0.1:8082"
    ops_token: SecretStr | None = Field(None, description="token of the ops page and the privacy commands")
    ops_token_file: Path | None = Field(None, description="file that holds the token, where `ops_token` is absent")

    decision_origins: Origins = Field(
        [], description="origins of pages that may ask for decisions: comma separated, or a JSON list"
    )
    decision_rate: float = Field(200.0, gt=0, description="decisions a second that one address may ask for; loopback is exempt")
    trusted_proxies: int = Field(
        0, ge=0, le=10, description="proxies in front of collector and decisions that append to X-Forwarded-For; 0 = none"
    )
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(read_origin_texts)] = Field(
        [], description="origins of pages that may send to the collector: comma separated, or a JSON list"
    )
    id_cookie: str = Field("", description="name of the first-party id cookie that the collector sets; empty = none")
    id_cookie_domain: str = Field(
        "", description="domain of that cookie, e.g. shop.example; empty = the collector's host alone"
    )
    id_cookie_days: int = Field(
        395, ge=1, le=400, description="days that the cookie lives after each event that grants storage"
    )
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

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Clean texts as env files hand them over; an empty one is an absent one."""
        cleaned = {
            name: clean_value(value) if isinstance(value, str) and name != "secret" else value for name, value in values.items()
        }
        return {name: value for name, value in cleaned.items() if value != ""}

    @field_validator("secret")
    @classmethod
    def _plain(cls, secret: SecretStr | None) -> SecretStr | None:
        return secret if secret is None else SecretStr(check_plain(secret.get_secret_value()))

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
            text = read_secret(file, "HEADWATER_SECRET_FILE")
        except FileNotFoundError:
            raise ConfigError(
                f"no master secret: set HEADWATER_SECRET or HEADWATER_SECRET_FILE, or write at least 32 characters to {file} "
                "(`headwater up` makes one)"
            ) from None
        try:
            return Secret(text)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None

    @property
    def ops_token_text(self) -> str | None:
        """The token of the ops page, from the setting or its file. ConfigError where the file cannot be used."""
        if self.ops_token is not None or self.ops_token_file is None:
            return self.ops_token.get_secret_value() if self.ops_token else None
        try:
            return read_secret(self.ops_token_file, "HEADWATER_OPS_TOKEN_FILE")
        except FileNotFoundError:
            raise ConfigError(f"HEADWATER_OPS_TOKEN_FILE: there is no file {self.ops_token_file}") from None

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
