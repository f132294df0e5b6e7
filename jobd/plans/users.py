"""A user: here, with a tier, with tokens, with what was used, with a library."""

from functools import partial

from attrs import evolve

from jobd.config import Tier
from jobd.core import Core, gated
from jobd.dispatch import Act, Plan, Request
from jobd.errors import Invalid, NotFound, QuotaReached
from jobd.files import Stored
from jobd.jobs import Known
from jobd.library import Shelf, Shelved
from jobd.placement import Home, default_slots
from jobd.store import Totals
from jobd.views import rfc3339
from schemas.api import SessionRequest, TokenRequest, UserRequest
from schemas.records import JobRecord, LibraryRecord, TokenRecord
from schemas.views import (
    FileView,
    JobUsageView,
    LibraryView,
    SessionView,
    TokensView,
    TokenView,
    UserUsageView,
    UserView,
)


def session(core: Core, user: str, ask: SessionRequest) -> Plan[SessionView]:
    """POST session: warm the user's agent up; answered at once."""

    def plan(request: Request) -> Act[SessionView]:
        if ask.code is not None and ask.code not in core.codes:
            raise Invalid(f"There is no code '{ask.code}'.", field="code")
        owner = request.need(Known(core.jobs, user))
        code = ask.code or next(iter(core.codes), "")
        image = core.codes[code].docker if code else None
        place = request.need(Home(core, owner, image.image if image else ""))
        # commit
        agent = core.fleet.want(owner, place)
        if place.role == "view":
            agent = core.fleet.want(owner, evolve(place, role="run"), default_slots(core, code))
        stage = "connected" if agent.link else agent.stage or "starting the agent"
        return partial(gated, core, core.store.sequence, SessionView(agent.record.id, stage))

    return plan


def set_tier(core: Core, user: str, ask: UserRequest) -> Plan[UserView]:
    """PUT user: the tier, for runs that are waiting too."""

    def plan(request: Request) -> Act[UserView]:
        if ask.tier not in core.config.tiers:
            raise Invalid(f"The tiers are {', '.join(core.config.tiers)}.", field="tier")
        core.store.check()
        owner = request.need(Known(core.jobs, user))
        # commit
        sequence = core.jobs.set_tier(user, ask.tier)
        core.broker.retier(owner, core.config.tier(ask.tier))
        return partial(gated, core, sequence, UserView(user, ask.tier))

    return plan


def usage(core: Core, user: str, after: str, limit: int) -> Plan[UserUsageView]:
    """GET usage: what the user has used, and one page of the jobs that used it."""

    def plan(request: Request) -> Act[UserUsageView]:
        owner = core.jobs.users.get(user)
        shelf = request.need(Shelved(core.library, owner))

        async def act() -> UserUsageView:
            await core.store.durable(core.store.sequence)
            disk, totals, jobs = core.store.disk, Totals(), tuple[JobRecord, ...]()
            if owner is not None:
                totals = await core.world.hop(disk.usage, owner.id)
                jobs = await core.world.hop(disk.used, owner.id, after, limit + 1)
            page = jobs[:limit]
            return UserUsageView(
                user=user,
                tier=core.tier_name(owner),
                runs=totals.runs,
                core_s=round(totals.core_s, 3),
                cpu_s=round(totals.cpu_s, 3),
                library_files=len(shelf.files),
                library_bytes=shelf.bytes,
                jobs=tuple(JobUsageView(job.name, job.runs, round(job.core_s, 3), round(job.cpu_s, 3)) for job in page),
                next=page[-1].name if len(jobs) > limit else None,
            )

        return act

    return plan


# --- tokens; with an empty user, the operators' ---------------------------------------------------------------------


def mint(core: Core, user: str, ask: TokenRequest) -> Plan[TokenView]:
    """POST tokens: the one reply that holds the token's text."""

    def plan(request: Request) -> Act[TokenView]:
        most = core.config.requests.token_s_max
        if ask.lifetime_s > most:
            raise Invalid(f"A token lives for at most {most:g} s.", field="lifetime_s")
        core.store.check()
        # commit
        record, text = core.tokens.mint(user, ask.lifetime_s, ask.job, ask.read_only)
        return partial(gated, core, core.store.sequence, _token(record, text))

    return plan


def tokens(core: Core, user: str) -> Plan[TokensView]:
    """GET tokens: the valid ones, without their texts."""

    def plan(request: Request) -> Act[TokensView]:
        return partial(gated, core, core.store.sequence, TokensView(tuple(map(_token, core.tokens.of(user)))))

    return plan


def revoke(core: Core, user: str, token: str) -> Plan[None]:
    """DELETE token: it opens nothing any more."""

    def plan(request: Request) -> Act[None]:
        # commit
        if not core.tokens.revoke(user, token):
            raise NotFound
        return partial(gated, core, core.store.sequence, None)

    return plan


def _token(record: TokenRecord, text: str | None = None) -> TokenView:
    return TokenView(record.id, rfc3339(record.expires_wall_s), text, record.job, record.read_only)


# --- the library ----------------------------------------------------------------------------------------------------


def room(core: Core, user: str, name: str) -> Plan[int]:
    """Before the body of PUT library is read: how many bytes the tier has left for this name; raises QuotaReached."""

    def plan(request: Request) -> Act[int]:
        core.store.check()
        owner = core.jobs.users.get(user)
        left = _room(core.tier(owner), request.need(Shelved(core.library, owner)), name)
        return partial(gated, core, 0, left)

    return plan


def shelve(core: Core, user: str, name: str, stored: Stored) -> Plan[FileView]:
    """PUT library: the name stands for this content, which is there already; raises QuotaReached beyond the tier."""

    def plan(request: Request) -> Act[FileView]:
        core.store.check()
        owner = request.need(Known(core.jobs, user))
        shelf = request.need(Shelved(core.library, owner))
        tier = core.tier(owner)
        if stored.bytes > _room(tier, shelf, name):  # others may have been stored since it was asked for
            raise overfull(tier)
        # commit
        record = core.library.put(owner, shelf, name, stored.sha256, stored.bytes)
        return partial(gated, core, shelf.sequence, _file(record))

    return plan


def _room(tier: Tier, shelf: Shelf, name: str) -> int:
    old = shelf.files.get(name)
    if old is None and len(shelf.files) >= tier.library_files:
        raise QuotaReached(f"The library holds at most {tier.library_files} files.", limit=tier.library_files)
    return max(0, tier.library_bytes - shelf.bytes + (old.bytes if old else 0))


def overfull(tier: Tier) -> QuotaReached:
    """A library has no room for so much."""
    return QuotaReached(f"The library holds at most {tier.library_bytes} bytes.", limit=tier.library_bytes)


def find(core: Core, user: str, name: str) -> Plan[FileView]:
    """GET and HEAD library: what the name stands for now."""

    def plan(request: Request) -> Act[FileView]:
        shelf = request.need(Shelved(core.library, core.jobs.users.get(user)))
        if name not in shelf.files:
            raise NotFound
        return partial(gated, core, shelf.sequence, _file(shelf.files[name]))

    return plan


def unshelve(core: Core, user: str, name: str) -> Plan[None]:
    """DELETE library: accepted runs keep what they were accepted with."""

    def plan(request: Request) -> Act[None]:
        shelf = request.need(Shelved(core.library, core.jobs.users.get(user)))
        if name not in shelf.files:
            raise NotFound
        # commit
        core.library.delete(shelf, name)
        return partial(gated, core, shelf.sequence, None)

    return plan


def shelf(core: Core, user: str) -> Plan[LibraryView]:
    """GET library: every name."""

    def plan(request: Request) -> Act[LibraryView]:
        shelf = request.need(Shelved(core.library, core.jobs.users.get(user)))
        files = tuple(_file(shelf.files[name]) for name in sorted(shelf.files))
        return partial(gated, core, shelf.sequence, LibraryView(files))

    return plan


def _file(record: LibraryRecord) -> FileView:
    return FileView(record.name, record.bytes, record.sha256, rfc3339(record.at.wall_s))
