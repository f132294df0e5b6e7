"""The commands about users: what they used, their tier and session, and the tokens, theirs and the operators'."""

import click
from attrs import evolve

from jobd.client import Client
from jobd.ctl.command import NAME, USER, Said, command, group
from schemas.ids import check_id
from schemas.views import SessionView, TokensView, TokenView, UserUsageView, UserView

tokens = group("tokens", "Tokens: of a user with --user, otherwise of the operators.")

OF_USER = click.option("--user", type=NAME, help="Of this user; without it, of the operators.")
TOKEN_S = 3600.0


@command(USER)
def usage(client: Client, user: str) -> UserUsageView:
    """Show what a user has used, in all and by job.

    \b
    jobctl usage alice
    """
    page = whole = client.usage(user)
    while page.next is not None:
        page = client.usage(user, page.next)
        whole = evolve(whole, jobs=whole.jobs + page.jobs)
    return evolve(whole, next=None)


@command(USER, click.argument("tier", type=NAME))
def tier(client: Client, user: str, tier: str) -> UserView:
    """Set a user's tier, one of the configuration's; it counts for runs that wait, too.

    \b
    jobctl tier alice premium
    """
    return client.set_tier(user, tier)


@command(USER, click.option("--code", type=NAME, help="The user is to work with this code."))
def session(client: Client, user: str, code: str | None) -> SessionView:
    """Warm a user's agent up; answers at once with the agent's id and how far it is.

    \b
    jobctl session alice
    """
    return client.session(user, code)


@command(OF_USER, of=tokens, name="list")
def list_(client: Client, user: str | None) -> TokensView:
    """List the valid tokens; nobody can show their texts again.

    \b
    jobctl tokens list --user alice
    """
    return client.tokens(user)


@command(
    OF_USER,
    click.option("--lifetime", "lifetime_s", type=click.FloatRange(1), default=TOKEN_S, show_default=True,
                 metavar="SECONDS", help="How long it is valid."),
    click.option("--job", type=NAME, help="It opens this job of the user only."),
    click.option("--read-only", is_flag=True, help="It changes nothing."),
    of=tokens,
)  # fmt: skip
def mint(client: Client, user: str | None, lifetime_s: float, job: str | None, read_only: bool) -> TokenView:
    """Mint a token; its text alone goes to stdout, and is never shown again.

    \b
    jobctl tokens mint --user alice --lifetime 600 --read-only > token
    """
    if user is not None:
        return client.mint(user, lifetime_s, job=job, read_only=read_only)
    if job is not None or read_only:
        raise click.UsageError("--job and --read-only are for a user's token: name the --user.")
    return client.mint_operator(lifetime_s)


@command(click.argument("token"), OF_USER, of=tokens)
def revoke(client: Client, token: str, user: str | None) -> Said:
    """Revoke a token by its id, which `jobctl tokens list` shows.

    \b
    jobctl tokens revoke --user alice kq2x7abc3d
    """
    try:
        check_id(token)
    except ValueError:
        raise click.BadParameter("must be the id of a token, not its text.", param_hint="TOKEN") from None
    client.revoke(token, user)
    return Said(f"revoked {token}", {"id": token})
