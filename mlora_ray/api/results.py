"""What a job of a run has come to: its files, as Python sees them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlora_ray.errors import JobError
from mlora_ray.store.run_files import read_json, read_metrics

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel


@dataclass(frozen=True, slots=True)
class JobResult:
    """One job's folder. Nothing is read before it is asked for.

    >>> run["a"].metrics.columns[:3].tolist(), run["a"].eval
    (['step', 'epoch', 'loss'], {})
    >>> len(run["a"].sha256)
    64
    """

    name: str
    adapter_dir: Path

    @property
    def metrics(self) -> pd.DataFrame:
        """One line an optimizer step: step, loss, learning_rate, grad_norm, num_tokens, eval_loss, seconds, ..."""
        import pandas as pd

        return pd.DataFrame(read_metrics(self.adapter_dir / "metrics.jsonl"))

    @property
    def eval(self) -> dict[str, Any]:
        """Loss and perplexity on the evaluation rows, base and adapter; empty without such rows."""
        return read_json(self.adapter_dir / "eval.json")

    @property
    def info(self) -> dict[str, Any]:
        """job.json: spec, seeds, hashes, versions, device. Raises JobError for a job that has not succeeded."""
        held = read_json(self.adapter_dir / "job.json")
        if not held:
            raise JobError(f"{self.name}: no adapter in {self.adapter_dir}: the job has not succeeded")
        return held

    @property
    def sha256(self) -> str:
        """Of the adapter's tensors: equal hashes are equal bits. Raises JobError as `info` does."""
        return str(self.info["weights_sha256"])

    def load(self, **from_pretrained: Any) -> PeftModel:
        """The base with this adapter, as PEFT loads it; arguments go to the base's `from_pretrained`.

        Raises JobError as `info` does.
        """
        # PEFT imports bitsandbytes, which warns on some CPUs that a kernel it would fetch from the Hub is not there.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = self.info["spec"]["base"]
        options = {"dtype": base["dtype"], "local_files_only": True, "trust_remote_code": False} | from_pretrained
        model = AutoModelForCausalLM.from_pretrained(base["path"], **options)
        loaded: PeftModel = PeftModel.from_pretrained(model, str(self.adapter_dir))
        return loaded


def load_adapter(adapter_dir: str | Path, **from_pretrained: Any) -> PeftModel:
    """A finished job's folder as a `PeftModel` on its base. Raises JobError where there is no adapter in it.

    >>> load_adapter(run["a"].adapter_dir).peft_config["default"].r
    4
    """
    folder = Path(adapter_dir)
    return JobResult(folder.name, folder).load(**from_pretrained)
