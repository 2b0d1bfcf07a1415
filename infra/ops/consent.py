"""`headwater consent`: the consent room's commands, and `carry-over`, which needs the privacy room too."""

from consumers.privacy.commands.carry_over import carry_over_command
from streams.consent.commands.explain import app

app.command("carry-over", epilog="Example: headwater consent carry-over")(carry_over_command)

__all__ = ["app"]
