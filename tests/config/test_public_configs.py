"""Configurations as users of TRL, axolotl and LLaMA-Factory write them: `check` takes them, or says what to write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlora_ray.cli.app import app
from mlora_ray.config.job_file import load_job_file
from mlora_ray.types import LoraSpec, TrainSpec

NUM_ROWS = 20

# name -> (the job's fields, what they mean)
TAKEN: dict[str, tuple[str, LoraSpec, TrainSpec]] = {
    "TRL: the README's script, with its LoRA switches": (
        """
    learning_rate: 2.0e-4
    num_train_epochs: 1
    packing: false
    per_device_train_batch_size: 2
    gradient_accumulation_steps: 8
    gradient_checkpointing: true
    eval_strategy: "no"
    report_to: none
    r: 32
    lora_alpha: 16
    task_type: CAUSAL_LM
""",
        LoraSpec(r=32, lora_alpha=16),
        TrainSpec(num_epochs=1, batch_size=2, gradient_accumulation_steps=8),
    ),
    "TRL: a QLoRA notebook after the quantization is left out": (
        """
    target_modules: [q_proj, k_proj, v_proj, o_proj]
    r: 16
    lora_alpha: 32
    lora_dropout: 0.05
    bias: none
    per_device_train_batch_size: 4
    per_device_eval_batch_size: 8
    optim: paged_adamw_32bit
    bf16: true
    tf32: null
    max_grad_norm: 0.3
    warmup_steps: 0.03
    lr_scheduler_type: constant_with_warmup
    logging_steps: 25
    save_strategy: epoch
    max_length: 512
""",
        LoraSpec(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        TrainSpec(
            batch_size=4,
            max_grad_norm=0.3,
            warmup_ratio=0.03,
            lr_scheduler_type="constant_with_warmup",
            max_length=512,
            save_steps=5,
        ),
    ),
    "PEFT: patterns, exclusions, rsLoRA": (
        r"""
    use_rslora: true
    target_modules: all-linear
    exclude_modules: '.*layers\.1\.mlp\..*'
    rank_pattern: {q_proj: 4}
    alpha_pattern: {'layers\.0\.self_attn\.v_proj': 32}
    init_lora_weights: gaussian
    modules_to_save: null
    use_dora: false
    num_epochs: 2
""",
        LoraSpec(
            use_rslora=True,
            exclude_modules=(r".*layers\.1\.mlp\..*",),
            rank_pattern=(("q_proj", 4),),
            alpha_pattern=((r"layers\.0\.self_attn\.v_proj", 32),),
            init_lora_weights="gaussian",
        ),
        TrainSpec(num_epochs=2),
    ),
    "TRL: betas, a floor of the rate, evaluations in between": (
        """
    max_steps: 40
    adam_beta1: 0.9
    adam_beta2: 0.95
    adam_epsilon: 1.0e-6
    weight_decay: 0.1
    optim: adamw_torch_fused
    lr_scheduler_type: cosine_with_min_lr
    lr_scheduler_kwargs: {min_lr_rate: 0.1}
    warmup_steps: 4
    eval_strategy: steps
    eval_steps: 0.25
    save_steps: 20
    save_total_limit: 2
    data_seed: 3
    dataloader_num_workers: 4
    remove_unused_columns: true
""",
        LoraSpec(),
        TrainSpec(
            max_steps=40,
            num_epochs=0,
            adam_beta2=0.95,
            adam_epsilon=1e-6,
            weight_decay=0.1,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs=(("min_lr_rate", 0.1),),
            warmup_steps=4,
            eval_steps=10,
            save_steps=20,
            data_seed=3,
        ),
    ),
    "axolotl: a small model on one card, its names changed where check says so": (
        """
    adapter: lora
    r: 16
    lora_alpha: 32
    lora_target_linear: true
    batch_size: 2
    gradient_accumulation_steps: 4
    num_epochs: 3
    optim: adamw_torch
    lr_scheduler_type: cosine
    learning_rate: 0.0002
    bf16: auto
    flash_attention: true
    gradient_checkpointing: unsloth
    warmup_steps: 2
    val_set_size: 0.0
    sample_packing: false
    train_on_inputs: false
    loraplus_lr_ratio: 16
    loraplus_lr_embedding: 1.0e-6
""",
        LoraSpec(r=16, lora_alpha=32),
        TrainSpec(
            batch_size=2,
            gradient_accumulation_steps=4,
            lr_scheduler_type="cosine",
            warmup_steps=2,
            loraplus_lr_ratio=16,
        ),
    ),
    "LLaMA-Factory: supervised fine-tuning, its names changed where check says so": (
        """
    stage: sft
    do_train: true
    finetuning_type: lora
    target_modules: all-linear
    r: 8
    lora_alpha: 16
    max_length: 1024
    per_device_train_batch_size: 1
    gradient_accumulation_steps: 8
    learning_rate: 1.0e-4
    num_train_epochs: 3.0
    lr_scheduler_type: cosine
    warmup_ratio: 0.1
    bf16: true
    ddp_timeout: 180000000
    overwrite_cache: true
    preprocessing_num_workers: 16
    plot_loss: true
""",
        LoraSpec(lora_alpha=16),
        TrainSpec(
            batch_size=1,
            gradient_accumulation_steps=8,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            warmup_ratio=0.1,
        ),
    ),
}

# name -> (the job's fields, the sentences)
REFUSED: dict[str, tuple[str, list[str]]] = {
    "axolotl: QLoRA with its own names": (
        """
    adapter: qlora
    load_in_4bit: true
    lora_r: 32
    lora_alpha: 16
    lora_target_modules: [q_proj, v_proj]
    sequence_len: 2048
    micro_batch_size: 2
    sample_packing: true
    optimizer: paged_adamw_8bit
    lr_scheduler: cosine
    wandb_project: support-bot
""",
        [
            "adapter must be lora: bases are not quantized here",
            "load_in_4bit must be false: bases are not quantized here; use dtype: bfloat16",
            "lora_r is an unknown field; did you mean r? (found 32)",
            "lora_target_modules is an unknown field; did you mean target_modules?",
            "sequence_len is an unknown field; did you mean max_length? (found 2048)",
            "micro_batch_size is an unknown field; did you mean batch_size? (found 2)",
            "sample_packing must be false: rows are laid end to end without padding anyway",
            "optimizer is an unknown field; did you mean optim? (found paged_adamw_8bit)",
            "lr_scheduler is an unknown field; did you mean lr_scheduler_type? (found cosine)",
            "wandb_project must be left out: every step is in metrics.jsonl",
        ],
    ),
    "LLaMA-Factory: DoRA on several cards": (
        """
    finetuning_type: lora
    lora_rank: 8
    lora_target: all
    use_dora: true
    template: qwen
    cutoff_len: 4096
    deepspeed: ds_z3_config.json
    output_dir: saves/qwen/lora
    val_size: 0.1
    evaluation_strategy: steps
""",
        [
            "lora_rank is an unknown field; did you mean r? (found 8)",
            "lora_target is an unknown field; did you mean target_modules? (found all)",
            "use_dora must be false: DoRA is not trained; plain LoRA with use_rslora",
            "template must be left out: rows go through the base's own chat template (found qwen)",
            "cutoff_len is an unknown field; did you mean max_length? (found 4096)",
            "deepspeed must be false: a job trains on one device",
            "output_dir must be left out: `--out DIR`, in Python `out`, says where results go",
            "val_size must be 0: put the held-out rows into a file of their own and name it in eval (found 0.1)",
            "evaluation_strategy is an unknown field; did you mean eval_strategy? (found steps)",
        ],
    ),
    "TRL: what a trainer does around the training": (
        """
    packing: true
    neftune_noise_alpha: 5
    push_to_hub: true
    hub_model_id: me/my-adapter
    load_best_model_at_end: true
    metric_for_best_model: eval_loss
    lr_scheduler_type: reduce_lr_on_plateau
    optim: adamw_8bit
    fp16: true
    report_to: [wandb]
""",
        [
            "packing must be false: rows are laid end to end without padding anyway, and batch_size counts rows",
            "neftune_noise_alpha must be 0: no noise is added to embeddings",
            "push_to_hub must be false: use `mlora-ray export`, then `hf upload`",
            "load_best_model_at_end must be false: the last step's adapter is the result",
            "lr_scheduler_type must be a schedule of steps, such as cosine: reduce_lr_on_plateau follows a metric",
            "optim must be adamw, sgd or lion: an adapter's moments are small, and stay in float32",
            "fp16 must be false or auto: use dtype: bfloat16 or float32",
            "report_to must be none: every step is in metrics.jsonl",
        ],
    ),
    "PEFT: what would change the base": (
        """
    init_lora_weights: pissa_niter_16
    modules_to_save: [embed_tokens, lm_head]
    bias: lora_only
    trainable_token_indices: [5, 6]
    layers_pattern: layers
    target_modules: null
""",
        [
            "init_lora_weights must be true, false, gaussian or orthogonal: pissa_niter_16 rewrites",
            "modules_to_save must be left out: whole modules of the base are not trained",
            "bias must be none: biases belong to the base, which all jobs share",
            "trainable_token_indices must be left out: embeddings belong to the base",
            "layers_pattern must be left out where layers_to_transform is",
            "target_modules must be all-linear, or a list of module names",
        ],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLORA_RAY_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def write(folder: Path, fields: str) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}"}]}
        for i in range(NUM_ROWS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "jobs.yaml"
    path.write_text(f"base: tiny-llama\njobs:\n  - name: mine\n    train: rows.jsonl{fields}")
    return path


def check(path: Path) -> tuple[int, dict[str, Any], list[str]]:
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr.splitlines()


@pytest.mark.parametrize("which", TAKEN)
def test_taken(which: str, tmp_path: Path) -> None:
    from mlora_ray.prepare.job_specs import prepare

    fields, lora, train = TAKEN[which]
    path = write(tmp_path, fields)
    code, report, _ = check(path)
    assert code == 0, report
    assert [job["rows"] for job in report["jobs"]] == [NUM_ROWS]
    (spec,) = prepare(load_job_file(path), None)
    assert (spec.lora, spec.train) == (lora, train)


@pytest.mark.parametrize("which", REFUSED)
def test_refused_with_what_to_write_instead(which: str, tmp_path: Path) -> None:
    fields, sentences = REFUSED[which]
    path = write(tmp_path, fields)
    code, report, lines = check(path)
    assert code == 1
    assert [m["line"] for m in report["mistakes"]] == sorted(m["line"] for m in report["mistakes"])
    said = {line.partition(': job "mine": ')[2] for line in lines}
    missing = [one for one in sentences if not any(line.startswith(one) for line in said)]
    assert not missing, said
    assert len(lines) == len(sentences)
