"""The API: one row for each resource and method, with who may call it, what it takes and what it answers.

Both doors serve this table; Quart, the front, /openapi.json and the tests of who may what are all made from it. The
status of a job is what browsers and gateways read most, so it is the one control resource that is served without Quart.
"""

from jobd.web import admin, clusters, jobs, operations, pages, streams, transfers, users
from jobd.web.calls import Route
from schemas import api, clusterviews, views

USER = "/v1/users/{user}"
JOB = f"{USER}/jobs/{{job}}"
LOGIN = f"{USER}/clusters/{{cluster}}/login"
AGENT = "/v1/admin/agents/{agent}"
PAGE = ("limit", "after")
ANY, BYTES, TEXT = "*/*", "application/octet-stream", "text/plain"

_JOBS = (
    Route(
        "GET",
        JOB,
        "read",
        "The status of the job's newest run",
        serve=jobs.status,
        reply=views.RunView,
        hot=True,
        headers=("if-none-match", "prefer"),
    ),
    Route(
        "PUT",
        f"{JOB}/run",
        "write",
        "Start a run, or have the one that is there: idempotent by input hash",
        serve=jobs.run,
        request=api.RunRequest,
        reply=views.RunView,
        statuses=(202, 200),
    ),
    Route(
        "GET",
        f"{JOB}/events",
        "read",
        "Server-sent events: stages (durable ids) and status (latest wins)",
        stream=streams.events,
        reply="text/event-stream",
        headers=("last-event-id",),
    ),
    Route(
        "POST",
        f"{JOB}/cancel",
        "write",
        "Cancel the run; the reply says whether its end is confirmed",
        serve=jobs.cancel,
        request=api.CancelRequest,
        reply=views.RunView,
    ),
    Route("DELETE", JOB, "write", "Purge the job's runs and files", serve=jobs.delete, reply=views.RunView),
    Route(
        "GET",
        f"{USER}/jobs",
        "read",
        "The user's jobs, each with its newest run",
        serve=jobs.listing,
        reply=views.JobsView,
        query=(*PAGE, "state", "code"),
    ),
    Route(
        "GET",
        f"{JOB}/runs",
        "read",
        "The job's runs, newest first",
        serve=jobs.history,
        reply=views.HistoryView,
        query=("limit", "before"),
    ),
    Route(
        "GET",
        f"{JOB}/explain",
        "read",
        "Why the run waits, or why it ended",
        serve=jobs.explain,
        reply=views.ExplainView,
        query=("serial",),
    ),
    Route(
        "GET",
        f"{JOB}/metrics",
        "read",
        "The run's kept scalars as series",
        serve=jobs.series,
        reply=views.SeriesView,
        query=("serial",),
    ),
    Route(
        "POST",
        f"{JOB}/analysis/{{method}}",
        "read",
        "One question to the code's analysis worker",
        stream=streams.analysis,
        request=api.AnalysisRequest,
        reply=ANY,
    ),
    Route(
        "GET",
        f"{JOB}/frames/{{view}}/{{index}}",
        "read",
        "One frame of a running or finished run",
        stream=streams.frame,
        reply=ANY,
        query=("serial", "format", "width"),
    ),
    Route(
        "GET",
        f"{JOB}/files",
        "read",
        "The files of the run directory",
        serve=jobs.files,
        reply=views.ListingView,
        query=("serial",),
    ),
    Route(
        "GET",
        f"{JOB}/files/{{path}}",
        "read",
        "One file, from an offset with Range, as it grows with follow=1; its type is guessed by its name",
        stream=streams.file,
        reply=ANY,
        query=("serial", "follow", "offset"),
        headers=("range",),
    ),
    Route(
        "GET",
        f"{JOB}/log",
        "read",
        "What the run wrote on stdout and stderr",
        stream=streams.log,
        reply=TEXT,
        query=("serial", "follow", "offset"),
        headers=("range",),
    ),
)

_USERS = (
    Route(
        "PUT",
        USER,
        "gateway",
        "Set the user's tier",
        serve=users.set_tier,
        request=api.UserRequest,
        reply=views.UserView,
    ),
    Route(
        "GET",
        f"{USER}/usage",
        "read",
        "Core-seconds, storage and runs, of the user and by job",
        serve=users.usage,
        reply=views.UserUsageView,
        query=PAGE,
    ),
    Route(
        "POST",
        f"{USER}/session",
        "write",
        "The user is here: warm the agent up",
        serve=users.session,
        request=api.SessionRequest,
        reply=views.SessionView,
        statuses=(202,),
    ),
    Route(
        "POST",
        f"{USER}/compute/{{code}}/{{method}}",
        "read",
        "A question to a code, about no job",
        stream=streams.compute,
        request=api.ComputeRequest,
        reply=ANY,
    ),
    Route(
        "POST",
        f"{USER}/tokens",
        "gateway",
        "Mint a token for this user",
        serve=users.mint,
        request=api.TokenRequest,
        reply=views.TokenView,
        statuses=(201,),
    ),
    Route("GET", f"{USER}/tokens", "gateway", "The user's valid tokens", serve=users.tokens, reply=views.TokensView),
    Route("DELETE", f"{USER}/tokens/{{token}}", "gateway", "Revoke a token", serve=users.revoke, statuses=(204,)),
    Route(
        "POST",
        LOGIN,
        "write",
        "Log in to a cluster; answered when the agent is there",
        serve=clusters.login,
        request=api.LoginRequest,
        reply=clusterviews.LoginView,
    ),
    Route("GET", LOGIN, "read", "State and age of the login", serve=clusters.logged, reply=clusterviews.LoginView),
    Route("DELETE", LOGIN, "write", "Log out; what runs goes on", serve=clusters.logout, statuses=(204,)),
    Route("GET", f"{USER}/library", "read", "The user's library", serve=users.shelf, reply=views.LibraryView),
    Route(
        "PUT",
        f"{USER}/library/{{name}}",
        "write",
        "Store a library file; large bodies are streamed",
        stream=transfers.upload,
        request=BYTES,
        reply=views.FileView,
        takes_pieces=True,
    ),
    Route(
        "GET",
        f"{USER}/library/{{name}}",
        "read",
        "A library file, from an offset with Range",
        stream=transfers.download,
        reply=BYTES,
        headers=("range", "if-none-match"),
    ),
    Route(
        "HEAD",
        f"{USER}/library/{{name}}",
        "read",
        "Size and SHA-256 (the ETag) of a library file",
        stream=transfers.look,
        headers=("if-none-match",),
    ),
    Route(
        "DELETE",
        f"{USER}/library/{{name}}",
        "write",
        "Take a name off the library; accepted runs keep its content",
        serve=users.unshelve,
        statuses=(204,),
    ),
)

_ADMIN = (
    Route(
        "GET",
        "/v1/admin/jobs",
        "operator",
        "The jobs of all users",
        serve=jobs.listing,
        reply=views.JobsView,
        query=(*PAGE, "state", "code"),
    ),
    Route("GET", "/v1/admin/agents", "operator", "Every agent", serve=admin.agents, reply=views.AgentsView),
    Route(
        "POST",
        f"{AGENT}/stop",
        "operator",
        "End an agent's process; its runs go on",
        serve=admin.stop_agent,
        reply=views.AgentView,
    ),
    Route(
        "POST",
        f"{AGENT}/forget",
        "operator",
        "Take an agent for gone, on the operator's word",
        serve=admin.forget_agent,
        request=api.ForgetRequest,
        reply=views.AgentView,
    ),
    Route("GET", "/v1/admin/hosts", "operator", "Every host", serve=admin.hosts, reply=views.HostsView),
    Route(
        "POST",
        "/v1/admin/hosts/{host}/drain",
        "operator",
        "Start nothing new on a host, or again",
        serve=admin.drain,
        request=api.DrainRequest,
        reply=views.HostView,
    ),
    Route("GET", "/v1/admin/pools", "operator", "The pools of slots", serve=admin.pools, reply=views.PoolsView),
    Route("GET", "/v1/admin/tree", "operator", "The live cancel-scope tree", serve=admin.tree, reply=views.TreeView),
    Route(
        "POST",
        "/v1/admin/tokens",
        "operator",
        "Mint an operator's token",
        serve=admin.mint,
        request=api.OperatorTokenRequest,
        reply=views.TokenView,
        statuses=(201,),
    ),
    Route(
        "GET", "/v1/admin/tokens", "operator", "The operators' valid tokens", serve=users.tokens, reply=views.TokensView
    ),
    Route(
        "DELETE",
        "/v1/admin/tokens/{token}",
        "operator",
        "Revoke an operator's token",
        serve=users.revoke,
        statuses=(204,),
    ),
)

_SITE = (
    Route("GET", "/v1/codes", "read", "The codes that the site offers", serve=operations.codes, reply=views.CodesView),
    Route(
        "GET",
        "/v1/clusters",
        "read",
        "The clusters that the site offers",
        serve=clusters.clusters,
        reply=clusterviews.ClustersView,
    ),
    Route("GET", "/healthz", "anyone", "The daemon answers", serve=operations.healthz, reply=views.HealthView),
    Route("GET", "/readyz", "anyone", "The daemon accepts work", serve=operations.readyz, reply=views.HealthView),
    Route("GET", "/metrics", "gateway", "What a monitoring system scrapes", serve=operations.metrics, reply=TEXT),
)

_PAGES = pages.Pages(lambda: ROUTES)
_ABOUT = (
    Route("GET", "/openapi.json", "anyone", "This document", serve=_PAGES.openapi, reply="application/json"),
    Route("GET", "/docs", "anyone", "This document as a page", serve=_PAGES.page, reply="text/html"),
)

ROUTES: tuple[Route, ...] = (*_JOBS, *_USERS, *_ADMIN, *_SITE, *_ABOUT)
