"""What lies where in a storage, a directory or an fsspec URL: a folder a job, and what is ours under `.mlora`."""

from __future__ import annotations

from dataclasses import dataclass

STORAGE_FOLDER = ".mlora"


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """Paths or URLs below `storage`, which ends in no slash."""

    storage: str

    @property
    def folder(self) -> str:
        return f"{self.storage}/{STORAGE_FOLDER}"

    @property
    def bundles(self) -> str:
        """A folder a job."""
        return f"{self.folder}/bundles"

    @property
    def data(self) -> str:
        """Tokenised rows, one file a data set."""
        return f"{self.folder}/data"

    def rows(self, sha256: str) -> str:
        return f"{self.data}/{sha256}.rows"

    @property
    def probe(self) -> str:
        """A file that is there when the storage is."""
        return f"{self.folder}/probe"

    @property
    def decisions(self) -> str:
        return f"{self.folder}/decisions.jsonl"

    @property
    def pages(self) -> str:
        """Adapters that wait on disk, where a run is alone on this machine."""
        return f"{self.folder}/pages"

    @property
    def database(self) -> str:
        """The control database of a storage that is a directory."""
        return f"{self.folder}/control.db"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def lock(self) -> str:
        return f"{self.folder}/lock"

    @property
    def inputs(self) -> str:
        """The job file, and the rows that came from memory, of a run that was started from Python."""
        return f"{self.folder}/inputs"

    @property
    def ray_note(self) -> str:
        """Where the run's own Ray keeps its files."""
        return f"{self.folder}/ray_dir"
