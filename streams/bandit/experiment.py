"""The definition of an experiment: validated, immutable, versioned by its content."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import ConfigError

Mode = Literal["run", "freeze", "control", "off"]
"""`freeze`: the published probabilities stay; `control`: everybody gets the control arm; `off`: the default arm."""

Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ContextValue = str | int | float | bool

MIN_CONTROL = 0.05
MAX_ARMS = 50
DAY_S = 86_400
MAX_WINDOW_S = 30 * DAY_S


class Model(BaseModel):
    """A strict, closed and frozen model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Beta(Model):
    """Prior of an arm's conversion rate: `alpha - 1` conversions and `beta - 1` failures observed before the start."""

    alpha: float = Field(default=1.0, ge=0.5, le=1e6, allow_inf_nan=False)
    beta: float = Field(default=1.0, ge=0.5, le=1e6, allow_inf_nan=False)


class Eligibility(Model):
    """Conditions under which an arm may be shown. A missing context value fails its condition; an absent condition holds."""

    locale: tuple[str, ...] | None = Field(default=None, strict=False)
    device: tuple[str, ...] | None = Field(default=None, strict=False)
    stock: str | None = None
    """Name of a context value that must be a number above 0."""

    def allows(self, context: Mapping[str, ContextValue]) -> bool:
        """Return whether this context allows the arm."""
        if self.locale is not None and context.get("locale") not in self.locale:
            return False
        if self.device is not None and context.get("device") not in self.device:
            return False
        if self.stock is None:
            return True
        quantity = context.get(self.stock)
        return isinstance(quantity, int | float) and not isinstance(quantity, bool) and quantity > 0


class Arm(Model):
    """A variant."""

    id: Key
    payload_ref: str = Field(default="", max_length=512)
    """Reference to the content that the widget shows; passed through."""
    eligible: Eligibility | None = None
    max_share: float = Field(default=1.0, gt=0, le=1)
    prior: Beta = Beta()


class ControlGroup(Model):
    """The share of visitors that always gets the same arm, whatever the model learns."""

    share: float = Field(default=0.1, ge=MIN_CONTROL, le=0.95)
    arm: Key


class Reward(Model):
    """The event by which arms are compared."""

    event: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    measure: Literal["conversion", "value"] = "conversion"
    """Summed up beside the conversions: 1 per conversion, or the event's `value`."""
    window_s: int = Field(gt=0, le=MAX_WINDOW_S)
    """Attribution window, from the decision to the event. Required: a reward without a window is never final."""


class Experiment(Model):
    """One version of an experiment. A change of arms or reward makes old statistics meaningless and needs a new `epoch`."""

    key: Key
    salt: str = Field(min_length=1, max_length=64)
    epoch: int = Field(default=1, ge=1, le=1_000_000)
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=MAX_ARMS, strict=False)
    default_arm: Key
    control: ControlGroup
    floor: float = Field(default=0.02, gt=0, lt=0.5)
    """Least probability of each eligible arm, so that exploration never ends."""
    policy: Literal["thompson_beta"] = "thompson_beta"
    exposure: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = "widget_viewed"
    reward: Reward
    publish_s: int = Field(default=30, ge=1, le=3_600)
    ttl_s: int = Field(default=300, ge=0, le=DAY_S)
    """Seconds for which a widget may cache the decision."""
    mode: Mode = "run"

    @model_validator(mode="after")
    def _arms_agree(self) -> Self:
        ids = [arm.id for arm in self.arms]
        if len(set(ids)) != len(ids):
            raise ValueError("two arms have the same id")
        for role, arm_id in (("default_arm", self.default_arm), ("control.arm", self.control.arm)):
            if arm_id not in ids:
                raise ValueError(f"{role} is no arm of this experiment")
            if self.arm(arm_id).eligible is not None:
                raise ValueError(f"{role} must be eligible everywhere, else some visitors could be shown nothing")
        if self.reward.event == self.exposure:
            raise ValueError("reward.event is the exposure event: every view would be a success")
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.floor * len(self.arms) >= 0.5:
            raise ValueError(f"floor {self.floor:g} for {len(self.arms)} arms leaves less than half to learning")
        if min(arm.max_share for arm in self.arms) < self.floor:
            raise ValueError("an arm's max_share is below floor")
        if sum(arm.max_share for arm in self.arms) < 1:
            raise ValueError("max_share of all arms together is below 1")
        return self

    def arm(self, arm_id: str) -> Arm:
        """Return the arm with this id."""
        return next(arm for arm in self.arms if arm.id == arm_id)

    @property
    def arm_ids(self) -> tuple[str, ...]:
        """Arm ids in the order of the definition."""
        return tuple(arm.id for arm in self.arms)

    @property
    def window_ms(self) -> int:
        """The attribution window in milliseconds."""
        return self.reward.window_s * 1_000

    def text(self) -> str:
        """Return canonical JSON."""
        return self.model_dump_json()

    @property
    def version(self) -> str:
        """Hash of the content: equal configurations have equal versions."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]


def parse(text: str | bytes, source: str = "experiment") -> Experiment:
    """Parse an experiment from JSON. ConfigError names `source`, the field and its defect."""
    try:
        return Experiment.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{source}: {field + ': ' if field else ''}{first['msg']}") from None
