"""The cluster settings file: every mistake with its line, all at once; and what a right file becomes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlora_ray.config.cluster_fields import HostTypeFields, ScaleFields, ServiceFields
from mlora_ray.config.cluster_settings import read_settings
from mlora_ray.config.field_reader import names_of
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.errors import InputError, Mistake
from mlora_ray.policies.scaling.presets import PROFILES
from mlora_ray.types import AutoscaleSettings, HostType

ROOT = Path(__file__).resolve().parents[2]
NOTHING: dict[str, str] = {}


def read(folder: Path, text: str, environment: dict[str, str] = NOTHING, **overrides: object) -> ServiceSettings:
    path = folder / "settings.yaml"
    path.write_text(text)
    return read_settings(str(path), environment, **overrides)  # type: ignore[arg-type]


def mistakes(folder: Path, text: str, **overrides: object) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        read(folder, text, **overrides)
    return caught.value.mistakes


FULL = """
name: night
storage: s3://bucket/runs/
database: postgresql+psycopg://mlora@db/mlora
policy: fifo
profile: cost
max_hosts: 10
max_cost_per_hour: 12.5
spot_share: 0.8
target_wait_s: 600
jobs_per_host: 3
up_delay_s: 5
down_delay_s: 30
min_hosts: 1
is_forecasting: true
node_idle_timeout_s: 300
start_patience_s: 900
tick_s: 0.5
host_timeout_s: 20
host_max_steps: 1000
memory_recycle_share: 0.9
save_attempts: 7
max_uncommitted_steps: 50
page_root: /scratch
is_logging_decisions: false
host_types:
  - name: a10g-spot
    device: cuda
    num_cpus: 3.5
    labels: {market: spot, ray.io/accelerator-type: A10G}
    zone: eu-1a
    is_spot: true
    price_per_hour: 0.4
    max_hosts: 8
    memory_limit: 20GB
    adapter_memory: 4GiB
    token_budget: 4096
  - {name: cpu, num_cpus: 4, price_per_hour: 0.2}
"""


def test_every_field_arrives(tmp_path: Path) -> None:
    assert read(tmp_path, FULL) == ServiceSettings(
        name="night",
        storage="s3://bucket/runs",
        database_url="postgresql+psycopg://mlora@db/mlora",
        policy="fifo",
        autoscale=AutoscaleSettings(
            profile="cost",
            min_hosts=1,
            max_hosts=10,
            max_cost_per_hour=12.5,
            target_wait_s=600.0,
            jobs_per_host=3,
            up_delay_s=5.0,
            down_delay_s=30.0,
            spot_share=0.8,
            is_forecasting=True,
            start_patience_s=900.0,
            node_idle_timeout_s=300.0,
        ),
        tick_s=0.5,
        host_timeout_s=20.0,
        host_max_steps=1000,
        memory_recycle_share=0.9,
        save_attempts=7,
        max_uncommitted_steps=50,
        page_root="/scratch",
        is_logging_decisions=False,
        host_types=(
            HostType(
                name="a10g-spot",
                device="cuda",
                num_cpus=3.5,
                num_gpus=1.0,
                labels=(("market", "spot"), ("ray.io/accelerator-type", "A10G")),
                zone="eu-1a",
                is_spot=True,
                price_per_hour=0.4,
                max_hosts=8,
                memory_limit_bytes=20_000_000_000,
                adapter_memory_bytes=4 << 30,
                token_budget=4096,
            ),
            HostType(name="cpu", num_cpus=4.0, price_per_hour=0.2, max_hosts=10, threads=4),
        ),
    )


def test_an_empty_file_and_none_are_the_defaults(tmp_path: Path) -> None:
    plain = ServiceSettings(autoscale=PROFILES["custom"])
    assert read(tmp_path, "") == read_settings("", NOTHING) == plain
    assert read(tmp_path, "profile: speed").autoscale == PROFILES["speed"]
    assert read(tmp_path, "max_hosts: 4").host_types == (HostType(name="cpu", max_hosts=4),)


def test_where_the_storage_and_the_database_come_from(tmp_path: Path) -> None:
    settings = read(tmp_path, "storage: runs")
    assert settings.storage == str(tmp_path / "runs")  # beside the file
    assert settings.database_url == f"sqlite:///{tmp_path}/runs/.mlora/control.db"
    around = {"MLORA_STORAGE": "gs://b/x", "MLORA_DATABASE": "postgresql://db/x"}
    filled = read(tmp_path, "", around)
    assert (filled.storage, filled.database_url) == ("gs://b/x", "postgresql://db/x")
    own = read(tmp_path, "storage: file:///own\n", around)  # the file says it already; it does not say the database
    assert (own.storage, own.database_url) == ("/own", "postgresql://db/x")
    given = read(tmp_path, "storage: s3://b/x\n", {}, storage="/given")
    assert (given.storage, given.database_url) == ("/given", "sqlite:////given/.mlora/control.db")


def test_a_storage_url_needs_a_database(tmp_path: Path) -> None:
    (wrong,) = mistakes(tmp_path, "name: x\nstorage: s3://bucket/runs\n")
    assert (wrong.field, wrong.value) == ("database", "")
    assert "postgresql+psycopg://user@host/mlora" in wrong.allowed
    assert "MLORA_DATABASE" in wrong.allowed


@pytest.mark.parametrize(
    ("line", "field", "allowed"),
    [
        ("profile: fast", "profile", "one of speed, balanced, cost, quality, custom"),
        ("max_hosts: 0", "max_hosts", "greater than or equal to 1"),
        ("max_hosts: '4'", "max_hosts", "a valid integer"),
        ("min_hosts: 3", "min_hosts", "at most max_hosts, which is 1 (profile custom)"),
        ("spot_share: 50", "spot_share", "less than or equal to 1"),
        ("down_delay_s: .nan", "down_delay_s", "a finite number"),
        ("tick_s: 0", "tick_s", "greater than or equal to 0.05"),
        ("database: /x/control.db", "database", "a SQLAlchemy URL such as"),
        ("database: foo://bar", "database", "sqlite:///PATH or postgresql+psycopg://"),
        ("name: a/b", "name", "letters, digits"),
        ("policy: best", "policy", "allowed are"),
        ("max_workers: 3", "max_workers", "did you mean max_hosts?"),
        ("database_url: x", "database_url", "did you mean database?"),
        ("colour: red", "colour", "unknown field; allowed: name, storage, database"),
        ("max_cost_per_hour: 3", "max_cost_per_hour", "every host type has a price_per_hour; cpu has none"),
        ("host_types: cpu", "host_types", "a list of at least one host type"),
        ("host_types: [cpu]", "host_types[0]", "a mapping with at least a name"),
        ("host_types: [{device: cpu}]", "host_types[0].name", "required"),
        ("host_types: [{name: a, device: tpu}]", "host_types[0].device", "'cpu' or 'cuda'"),
        ("host_types: [{name: a, num_gpus: 1}]", "host_types[0].num_gpus", "above 0 where device is cuda, and only"),
        (
            "host_types: [{name: a, device: cuda, num_gpus: 0}]",
            "host_types[0].num_gpus",
            "above 0 where device is cuda",
        ),
        ("host_types: [{name: a, memory_limit: lots}]", "host_types[0].memory_limit", "a size above zero, such as 8GB"),
        ("host_types: [{name: a, labels: {x: 1}}]", "host_types[0].labels", "a valid string"),
        ("host_types: [{name: a}, {name: a}]", "host_types[1].name", "a name of its own"),
        ("host_types: [{name: a, spot: true}]", "host_types[0].spot", "did you mean is_spot?"),
    ],
)
def test_a_mistake_says_where_and_what_is_allowed(tmp_path: Path, line: str, field: str, allowed: str) -> None:
    found = mistakes(tmp_path, f"tick_s: 1\n{line}\n" if not line.startswith("tick_s") else f"name: x\n{line}\n")
    assert [(m.file, m.line, m.field) for m in found] == [(str(tmp_path / "settings.yaml"), 2, field)]
    assert allowed in found[0].allowed


def test_a_bound_in_money_must_pay_for_one_host(tmp_path: Path) -> None:
    text = "max_cost_per_hour: 2\nhost_types:\n  - {name: a, price_per_hour: 3}\n  - {name: b, price_per_hour: 4}\n"
    assert "at least 3, the price of the cheapest" in mistakes(tmp_path, text)[0].allowed
    assert read(tmp_path, text.replace("hour: 2", "hour: 3")).autoscale.max_cost_per_hour == 3.0


def test_a_host_may_answer_a_tick_late(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "tick_s: 5\nhost_timeout_s: 14\n")
    assert [(m.line, m.field, m.allowed) for m in found] == [
        (2, "host_timeout_s", "at least 3 times tick_s, which is 5")
    ]
    assert read(tmp_path, "tick_s: 5\nhost_timeout_s: 15\n").host_timeout_s == 15


def test_all_mistakes_come_at_once_in_their_order(tmp_path: Path) -> None:
    text = "profile: fast\nname: x\nname: y\nhost_types:\n  - name: a\n    price_per_hour: -1\nspot_share: 2\n"
    assert [m.line for m in mistakes(tmp_path, text)] == [1, 3, 6, 7]


def test_what_the_command_line_says_has_no_line_of_the_file(tmp_path: Path) -> None:
    (wrong,) = mistakes(tmp_path, "policy: fifo\n", policy="best")
    assert (wrong.file, wrong.line, wrong.field) == ("command line", 0, "policy")
    assert read(tmp_path, "policy: none\nname: x\n", policy="fifo", name="y").name == "y"


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="settings file must be a readable YAML file: No such file"):
        read_settings(str(tmp_path / "none.yaml"))
    assert mistakes(tmp_path, "- a\n- b\n")[0].allowed == "a mapping of settings"


def test_the_example_is_right_and_the_table_names_every_key() -> None:
    settings = read_settings(str(ROOT / "examples" / "cluster-settings.yaml"), NOTHING)
    assert len(settings.host_types) > 1
    assert settings.autoscale.max_cost_per_hour > 0
    text = (ROOT / "docs" / "cluster-settings.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    models = (ServiceFields, ScaleFields, HostTypeFields)
    assert rows == {name for model in models for name in names_of(model)} | {"host_types"}


def test_the_profiles_table_has_the_profiles_numbers() -> None:
    text = (ROOT / "docs" / "cluster-settings.md").read_text(encoding="utf-8")
    heads = re.search(r"^\| number \| (.*) \|$", text, re.MULTILINE)
    assert heads
    names = heads[1].split(" | ")
    assert names == list(PROFILES)
    for field in names_of(ScaleFields):
        if field in ("start_patience_s", "node_idle_timeout_s"):  # the cluster's, whatever the profile
            continue
        row = re.search(rf"^\| {field} \| (.*) \|$", text, re.MULTILINE)
        assert row, field
        for name, shown in zip(names, row[1].split(" | "), strict=True):
            value = getattr(PROFILES[name], field)
            assert shown == {True: "yes", False: "no"}[value] if isinstance(value, bool) else float(shown) == value
