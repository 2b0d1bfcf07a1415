"""Rates of the identity world, each with the reason for its default.

No public data set has cookies, devices and logins of the same people over time together with the truth, so the defaults are a
retailer's orders of magnitude. Change one and run again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MINUTE_MS = 60_000


@dataclass(frozen=True)
class Rates:
    """Shares are 0 to 1; each comment names the whole."""

    events: int = 400_000
    """At least so many different events: households are added until there are."""
    days: int = 60
    """Long enough that most cookies which Safari limits die several times."""

    household_sizes: tuple[float, ...] = (0.41, 0.34, 0.12, 0.10, 0.03)
    """Of households of 1, 2, ... persons: a European census."""
    visits_mu: float = 1.0
    visits_sigma: float = 1.1
    """Visits of a person, log-normal: median 2.7, mean 5; most people hardly ever come and a few come daily."""
    pages: float = 4.0
    """Mean events of a visit, geometric from 1."""
    newcomers: float = 0.5
    """Of persons: those seen first on a random day; the others are there from the first day on."""

    laptop: float = 0.6
    work_browser: float = 0.2
    """Of persons, beside the phone's browser, which everybody has."""
    app: float = 0.25
    """Of persons: most people never install a shop's app."""
    app_visits: float = 2.0
    """How much likelier a visit is by the app than by any one browser, where there is one."""
    reinstalls: float = 0.15
    """Of apps, once in `days`: a new device id on the same phone."""
    web_views: float = 0.10
    """Of app visits: a web view with its own cookie jar joins in, and events carry device and cookie."""
    hand_overs: float = 0.03
    """Of app visits: a link opens the phone's browser with the device id in its address."""

    short_lived: float = 0.35
    """Of browsers: Safari, which keeps cookies set by script for 7 days after the last visit."""
    short_life_days: float = 7.0
    cookie_life_days: float = 90.0
    """Mean life of the other browsers' cookies, exponential: cleaned up, or expired."""
    private: float = 0.04
    """Of browser visits: a private window, whose cookie nobody sees again."""

    accounts_rare: float = 0.25
    accounts_frequent: float = 0.6
    """Of persons with fewer than 5 visits, and of the others."""
    sign_ups: float = 0.4
    """Of accounts: opened on a random day in the world; their owners were anonymous before."""
    habit_alpha: float = 0.9
    habit_beta: float = 1.3
    """How likely a visit's login is, drawn once a person (beta, mean 0.41): some always, many hardly ever."""
    login_position: float = 0.4
    """Chance that the login is the next event of the visit: some log in at once, some at the checkout."""
    remembered: float = 0.4
    """Of persons with an account: browsers keep them logged in until the cookie dies. Apps always do."""
    login_says_email: float = 0.5
    """Of logins: the account's e-mail comes with the user id, as in an `identify` call."""

    subscribers: float = 0.35
    """Of persons: get the newsletter."""
    clicks: float = 0.15
    """Of a subscriber's browser visits: begin with a click in it, which carries the e-mail."""
    second_email: float = 0.18
    """Of persons: use two addresses."""
    second_share: float = 0.3
    """Of what such a person does by e-mail: with the second one."""
    household_email: float = 0.04
    """Of households of several: one address for all of them."""
    forwarded: float = 0.01
    """Of clicks: in a newsletter that another person received and forwarded."""
    typed: float = 0.05
    """Of anonymous browser visits: an e-mail is typed, at a guest's checkout or for a voucher."""
    misspelt: float = 0.02
    """Of typed e-mails: an address that is nobody's."""

    shared: float = 0.05
    """Of all browsers and devices: used by the whole household, logged in and anonymous."""
    shared_by_others: float = 0.4
    """Of visits on a shared one: by others than who brought it."""
    left_open: float = 0.25
    """Of others' visits on a shared device where a user is logged in: continue that session, under the wrong user id."""
    kiosks: int = 2
    """A terminal in a shop (a device) and a browser in a library (a cookie), in turns. Neither forgets."""
    kiosk_visits: float = 0.006
    """Of visits: at one of them. By default some 250 a kiosk, nearly all of different persons."""
    kiosk_logins: float = 0.25
    """Of kiosk visits of persons with an account: logged in."""

    junk_typed: float = 0.08
    """Of typed e-mails: something to get past the form; half of it is no e-mail, half is one of a few that many type."""
    junk_device: float = 0.003
    """Of apps: a cloned image or an emulator, all with one device id."""
    junk_literals: float = 0.015
    """Of visits: a tag says `null` or the like as user id while nobody is logged in. Blocked literals vanish at the door."""
    broken_hours: float = 6.0
    broken_visits: float = 0.1
    """A broken release: for some hours, of anonymous browser visits so many carry one unblocked constant as user id."""

    late_app: float = 0.03
    late_web: float = 0.003
    """Of visits: delivered late, by a phone that was offline or by a queue that was stuck."""
    late_median_minutes: float = 60.0
    late_sigma: float = 2.0
    late_most_days: float = 3.0
    """Lateness is log-normal with a cap: mostly an hour, sometimes days."""
    duplicates: float = 0.005
    """Of events: delivered again, seconds to minutes later, with the same event id."""


WORLDS: Mapping[str, Rates] = {
    "shop": Rates(),
    "members": Rates(
        visits_mu=2.0, accounts_rare=0.7, accounts_frequent=0.95, habit_alpha=2.0, habit_beta=1.0, remembered=0.7, sign_ups=0.2
    ),
}
"""A shop, where most never log in; and a service for members, where most come often and do: media, banking, a marketplace."""
