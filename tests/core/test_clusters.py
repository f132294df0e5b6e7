"""The descriptions of clusters, and what a run may ask of them."""

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from jobd import acceptance
from jobd.clusters import Site, load_clusters
from jobd.errors import Invalid
from schemas import codec
from schemas.api import BatchRequest, Input, Resources, RunRequest, TimeLimits
from schemas.codec import CodecError
from schemas.records import Instant, RunRecord

DEPLOY = Path(__file__).parents[2] / "deploy"
NOW = Instant(0.0, 0.0, "boot")


@pytest.fixture(scope="module")
def sites() -> dict[str, Site]:
    return load_clusters(DEPLOY / "clusters", DEPLOY / "codes")


def drafted(sites: dict[str, Site], cluster: str = "small", **wanted: Any) -> RunRecord:
    fields = {name: wanted.pop(name) for name in ("resources", "limits") if name in wanted}
    ask = RunRequest(
        "lammps", "batch", {"in.lammps": Input(text="run 1")}, batch=BatchRequest(cluster, **wanted), **fields
    )
    return acceptance.draft({}, sites, ask, {}, NOW)[0]


def directives(record: RunRecord) -> dict[str, str]:
    assert record.execution.batch is not None
    return dict(each[2:].split("=", 1) for each in record.execution.batch.directives)  # type: ignore[misc]


def test_a_run_is_submitted_as_its_cluster_wants_it(sites: dict[str, Site]) -> None:
    record = drafted(sites, nodes=2, tasks=8, resources=Resources(memory_bytes=2 << 30), limits=TimeLimits(run_s=600.0))
    assert directives(record) == {
        "partition": "short",
        "nodes": "2",
        "ntasks": "8",
        "cpus-per-task": "1",
        "mem": "2048M",
        "time": "11",  # the run's own parent ends it before that
    }
    assert record.place == "small"
    assert record.slots.cores == 8
    assert record.execution.command[:2] == ("srun", "lmp")
    assert record.execution.environment["PATH"].startswith("/opt/lammps/bin:")
    assert record.execution.batch.setup == ("module load lammps",)  # type: ignore[union-attr]
    assert record.execution.limits.memory_bytes is None, "the scheduler holds it"


def test_a_large_centre_has_accounts_constraints_gpus_containers_and_a_warning(sites: dict[str, Site]) -> None:
    record = drafted(sites, "perlmutter-like", constraint="gpu", account="m0001_g", gpus_per_node=4, tasks=4)
    found = directives(record)
    assert (found["account"], found["qos"], found["constraint"]) == ("m0001_g", "regular", "gpu")
    assert (found["gpus-per-node"], found["licenses"]) == ("4", "scratch")
    image = "--image=registry.example/lammps:2025.7"
    assert record.execution.command[:5] == ("srun", "--cpu-bind=cores", "shifter", image, "lmp")
    batch = record.execution.batch
    assert batch is not None
    assert (batch.warn_signal, batch.warn_s) == (10, 300.0)


def test_who_asks_for_no_time_gets_what_the_partition_allows(sites: dict[str, Site]) -> None:
    record = drafted(sites)
    assert record.limits.run_s == 3600.0
    assert record.execution.limits.run_s == 3540.0, "the last minute is for its own end, before the scheduler's"
    assert directives(record)["time"] == "60", "never more than the partition takes"
    assert record.limits.heartbeat_s == 7 * 86400.0, "a login ends, and what runs goes on"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("batch.cluster", {"cluster": "none"}),
        ("batch.partition", {"partition": "huge"}),
        ("batch.nodes", {"nodes": 3, "tasks": 3}),
        ("batch.tasks", {"nodes": 2, "tasks": 33}),
        ("batch.tasks", {"nodes": 2, "tasks": 1}),
        ("batch.gpus_per_node", {"gpus_per_node": 1}),
        ("batch.account", {"account": "another"}),
        ("batch.qos", {"qos": "--exclusive"}),
        ("batch.constraint", {"constraint": "gpu"}),
        ("limits.run_s", {"limits": TimeLimits(run_s=3601.0)}),
        ("resources.memory_bytes", {"resources": Resources(memory_bytes=1 << 40)}),
        ("resources.cores", {"resources": Resources(cores=2)}),
    ],
)
def test_what_the_site_does_not_give_is_refused_before_it_is_submitted(
    sites: dict[str, Site], field: str, wanted: dict[str, Any]
) -> None:
    with pytest.raises(Invalid) as refused:
        drafted(sites, **wanted)
    assert refused.value.fields["field"] == field


def test_batch_resources_belong_to_mode_batch_alone() -> None:
    for mode, batch in (("batch", None), ("sequential", {"cluster": "small"})):
        with pytest.raises(CodecError, match="batch"):
            codec.from_data({"code": "lammps", "mode": mode, "batch": batch}, RunRequest)


def test_another_partition_is_another_run(sites: dict[str, Site]) -> None:
    limits = TimeLimits(run_s=60.0)
    hashes = {drafted(sites, limits=limits, partition=each).input_hash for each in ("", "short", "long")}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[codes.nothing]", "codes.nothing"),
        ("[codes.heat]", "codes.heat"),  # it has no mode batch
        ("accounts = ['--wrap=id']", "accounts"),
        ("host_keys = []", "host_keys"),
        ("login_node = 'x'", "login_node"),
    ],
)
def test_a_description_that_cannot_work_is_refused_with_its_field(tmp_path: Path, line: str, problem: str) -> None:
    text = (DEPLOY / "clusters" / "small.toml").read_text().split("[codes")[0]
    name = line.split(" ", maxsplit=1)[0]
    kept = "\n".join(each for each in text.splitlines() if not each.startswith(f"{name} "))
    table = line.startswith("[")
    (tmp_path / "c.toml").write_text(f"{kept}\n{line}\n" if table else f"{line}\n{kept}\n")
    with pytest.raises(CodecError, match=problem):
        load_clusters(tmp_path, DEPLOY / "codes")


def test_two_clusters_of_one_name_are_refused(tmp_path: Path, sites: dict[str, Site]) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text((DEPLOY / "clusters" / "small.toml").read_text())
    with pytest.raises(CodecError, match="another file"):
        load_clusters(tmp_path, DEPLOY / "codes")


def test_a_single_task_needs_no_launcher(sites: dict[str, Site]) -> None:
    cluster = evolve(sites["small"].cluster, launcher=("srun", "--mpi=pmi2"))
    assert cluster.command(BatchRequest("small"), "lammps", ("lmp",)) == ("lmp",)
    assert cluster.command(BatchRequest("small", tasks=2), "lammps", ("lmp",)) == ("srun", "--mpi=pmi2", "lmp")
