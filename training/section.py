"""What every table of a configuration is made of."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen table of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
