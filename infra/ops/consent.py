"""`headwater consent`: the gate's own commands, and `carry-over`, which works on the keys of privacy too."""

from consumers.privacy.commands.carry_over import carry_over_command
from streams.consent.commands.explain import app

app.command("carry-over", epilog="Example: headwater consent carry-over")(carry_over_command)

__all__ = ["app"]
