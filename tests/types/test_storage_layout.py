"""The driver, the service and the job file mean the same places."""

from __future__ import annotations

from pathlib import Path

from mlora_ray.config.job_file import RESERVED_NAMES
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.run.directory import RunDirectory
from mlora_ray.types.storage_layout import STORAGE_FOLDER, StorageLayout


def test_a_directory_and_a_url() -> None:
    assert StorageLayout("/runs").database_url == "sqlite:////runs/.mlora/control.db"
    assert StorageLayout("s3://bucket/runs").rows("0a") == "s3://bucket/runs/.mlora/data/0a.rows"


def test_a_run_and_its_service_agree(tmp_path: Path) -> None:
    directory, settings = RunDirectory(str(tmp_path)), ServiceSettings(storage=str(tmp_path))
    assert str(directory.data) == settings.data_root
    assert str(directory.bundles) == settings.bundle_root
    assert str(directory.decisions) == settings.decisions_uri
    assert {path.parent for path in (directory.pages, directory.database, Path(settings.probe_uri))} == {directory.ours}
    assert directory.ours.name == STORAGE_FOLDER
    assert STORAGE_FOLDER in RESERVED_NAMES, "no job takes its name"


def test_an_object_store_keeps_no_decisions() -> None:
    assert ServiceSettings(storage="s3://bucket/runs").decisions_uri == ""
