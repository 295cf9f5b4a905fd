"""From the command line to a service's settings, and what is said where there is none."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlora_ray.cli.app import app
from mlora_ray.config.job_file import read_job_file
from mlora_ray.errors import InputError
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.run.new_service import Target, asked_settings, check_writable, host_types_of, settings_for, storage_uri
from mlora_ray.run.submit import placed_anywhere
from mlora_ray.types.job_identity import spec_differences

JOBS = "base: tiny-llama\njobs:\n  - {name: a, r: 4, train: rows.jsonl, eval: rows.jsonl}\n"


def node(cpus: float = 0, gpus: float = 0, *, is_alive: bool = True) -> dict[str, object]:
    return {"Alive": is_alive, "Resources": {"CPU": float(cpus), "GPU": float(gpus), "memory": 1e9}}


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"RAY_ADDRESS": ""})
    return result.exit_code, result.stdout, result.stderr


def test_hosts_are_the_gpus_or_one_on_each_node_with_equal_threads() -> None:
    (cpus,) = host_types_of([node(0), node(8), node(4), node(16, is_alive=False)])
    assert (cpus.device, cpus.threads, cpus.num_cpus, cpus.max_hosts) == ("cpu", 4, 4.0, 3)
    (two,) = host_types_of([node(8), node(4)], threads=2, memory_limit_bytes=10**9)
    assert (two.threads, two.max_hosts, two.memory_limit_bytes) == (2, 6, 10**9)
    (gpus,) = host_types_of([node(8, 4), node(8, 4), node(8)])
    assert (gpus.device, gpus.num_gpus, gpus.max_hosts) == ("cuda", 1.0, 8)
    assert host_types_of([node(8, 4)], device="cpu")[0].device == "cpu"
    assert host_types_of([])[0].max_hosts == 1


def test_a_storage_is_an_absolute_path_or_a_url_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_uri("runs/", "--storage") == str(tmp_path / "runs")
    assert storage_uri("file:///mnt/runs", "--storage") == "/mnt/runs"
    assert storage_uri("memory://bucket/runs/", "--storage") == "memory://bucket/runs"
    assert storage_uri("", "--storage") == ""
    with pytest.raises(InputError, match=r"--storage must be a URL that fsspec opens here: .*nope"):
        storage_uri("nope://x", "--storage")


def test_nothing_is_stored_in_rays_copy_of_a_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(InputError, match=r"--out must be an absolute path or a URL.*Ray's copy"):
        asked_settings(Target(storage="runs", storage_option="--out"), is_running=False)
    (copy / "cluster.yaml").write_text("storage: runs\n")
    with pytest.raises(InputError, match=r"an absolute path or a URL.*Ray's copy"):
        asked_settings(Target(settings_path="cluster.yaml"), is_running=True)


def test_a_job_is_the_same_from_every_copy_of_its_folder(tmp_path: Path) -> None:
    specs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        (tmp_path / name / "jobs.yaml").write_text(JOBS)
        path = str(tmp_path / name / "jobs.yaml")
        specs.append([placed_anywhere(spec, path) for spec in prepare(read_job_file(path), str(tmp_path / "data"))])
    assert specs[0][0].train_rows.source == "rows.jsonl"
    assert spec_differences(specs[0], specs[1], "jobs.yaml") == []
    assert specs[0] == specs[1]


def test_several_sources_are_named_beside_the_job_file(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two + 2.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')
    path = tmp_path / "jobs.yaml"
    path.write_text(JOBS.replace("rows.jsonl", "['one.jsonl[:100%]', 'two + 2.jsonl']"))
    (spec, *_) = [placed_anywhere(spec, str(path)) for spec in prepare(read_job_file(path), str(tmp_path / "data"))]
    assert spec.train_rows.source == "one.jsonl[:100%] + two + 2.jsonl"
    assert [file.source for file in spec.train_rows.counts.files] == ["one.jsonl[:100%]", "two + 2.jsonl"]


def test_a_service_without_a_settings_file_is_as_large_as_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLORA_STORAGE", raising=False)
    monkeypatch.delenv("MLORA_DATABASE", raising=False)
    target = Target(storage_option="--out")
    with pytest.raises(InputError, match=r"--out .*MLORA_STORAGE.*settings file"):
        settings_for(target, [node(2)])
    monkeypatch.setenv("MLORA_STORAGE", "/mnt/runs")
    target = Target(service="other", threads=2)
    settings = settings_for(target, [node(4), node(2)])
    assert (settings.name, settings.storage, settings.autoscale.max_hosts) == ("other", "/mnt/runs", 3)
    assert settings.database_url == "sqlite:////mnt/runs/.mlora/control.db"
    monkeypatch.setenv("MLORA_STORAGE", "memory://bucket/runs")
    with pytest.raises(InputError, match=r"database must be a URL such as postgresql"):
        settings_for(target, [node(2)])
    assert asked_settings(target, is_running=True).storage == "memory://bucket/runs"


def test_a_settings_file_is_kept_and_the_command_line_stands_over_it(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("name: lab\nstorage: /mnt/a\nmax_hosts: 5\nhost_types: [{name: small, num_cpus: 2}]\n")
    target = Target(settings_path=str(path), storage="/mnt/b")
    settings = settings_for(target, [node(64)])
    assert (settings.name, settings.storage, settings.autoscale.max_hosts) == ("lab", "/mnt/b", 5)
    assert [t.name for t in settings.host_types] == ["small"]
    assert asked_settings(Target(settings_path=str(path), service="mine"), is_running=True).name == "mine"
    with pytest.raises(InputError, match=r"name must be letters.*found no/slashes"):
        asked_settings(Target(service="no/slashes"), is_running=True)


def test_where_no_cluster_is_it_says_so_at_once() -> None:
    with socket.socket() as held:  # bound, not listening: nobody else takes the port
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        started_s = time.monotonic()
        code, _, err = invoke("status", "--address", address)
        assert time.monotonic() - started_s < 5
    assert code == 1
    assert err.count("\n") == 1
    assert "--address must be the address of a running Ray cluster" in err
    code, _, err = invoke("hosts", "--address", "10.0.0.1:port")
    assert code == 1
    assert "(found 10.0.0.1:port)" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "{jobs}"), "--out must be a directory for the adapters; or --address"),
        (("train", "{jobs}", "--out", "never", "--settings", "s.yaml"), "--settings must be given with --address only"),
        (("train", "{jobs}", "--address", "auto", "--overwrite"), "--overwrite must be left out with --address"),
        (("export", "a", "--to", "{folder}"), "--to must be a new or empty directory"),
    ],
)
def test_mistakes_that_need_no_cluster_to_be_found(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "jobs.yaml").write_text(JOBS)
    names = {"jobs": str(tmp_path / "jobs.yaml"), "folder": str(tmp_path)}
    code, _, err = invoke(*(argument.format(**names) for argument in arguments))
    assert code == 1
    assert said.format(**names) in err
    assert not Path("never").exists()


@pytest.mark.parametrize("storage", ["file", "file/under", "/proc/nothing"])
def test_a_storage_in_which_nothing_can_be_written_is_named_by_its_option(storage: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = str(tmp_path / storage)
    with pytest.raises(InputError, match=r"--storage must be a directory that can be written: (Not a|No such|Perm)"):
        check_writable(path, "--storage")
    check_writable(str(tmp_path / "new" / "runs"), "--storage")
    check_writable("memory://bucket/runs", "--storage")
    assert list(tmp_path.glob("new/runs/.mlora/*")) == []
