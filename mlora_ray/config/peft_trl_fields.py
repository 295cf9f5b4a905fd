"""Every field of PEFT's `LoraConfig`, transformers' `TrainingArguments` and TRL's `SFTConfig`, and what it is here.

`Taken`: it means something, under our name. `Harmless`: at these values it changes nothing, at any other it is refused
with the sentence of what to use instead. Null is as good as left out. Tests hold the tables against the libraries.
"""

from __future__ import annotations

from typing import NamedTuple


class Taken(NamedTuple):
    ours: str
    is_nullable: bool = False  # null is their default


class Harmless(NamedTuple):
    values: tuple[object, ...] = ()
    instead: str = ""  # follows "must be <values>: "; empty where every value changes nothing

    def allowed(self) -> str:
        """What a value must be, with what to do instead."""
        plain = [one for one in self.values if one != "" and isinstance(one, str | int)]
        shown = [str(one).lower() if isinstance(one, bool) else str(one) for one in plain]
        return f"{' or '.join(shown) or 'left out'}: {self.instead}"


ANY = Harmless()

LORA_CONFIG: dict[str, Taken | Harmless] = {
    "r": Taken("r"),
    "lora_alpha": Taken("lora_alpha"),
    "lora_dropout": Taken("lora_dropout"),
    "use_rslora": Taken("use_rslora"),
    "target_modules": Taken("target_modules"),
    "exclude_modules": Taken("exclude_modules", is_nullable=True),
    "layers_to_transform": Taken("layers_to_transform", is_nullable=True),
    "layers_pattern": Taken("layers_pattern", is_nullable=True),
    "rank_pattern": Taken("rank_pattern", is_nullable=True),
    "alpha_pattern": Taken("alpha_pattern", is_nullable=True),
    "init_lora_weights": Taken("init_lora_weights"),
    "task_type": Harmless(("CAUSAL_LM",), "bases here are causal language models"),
    "peft_type": Harmless(("LORA",), "adapters here are LoRA; other methods of PEFT are not trained"),
    "auto_mapping": ANY,
    "peft_version": ANY,
    "base_model_name_or_path": Harmless((), "`base` at the top of the file names the base of all its jobs"),
    "revision": Harmless(("main",), "download that revision and give its directory as `base`"),
    "inference_mode": Harmless((False,), "a job trains its adapter; a finished one needs no job file"),
    "fan_in_fan_out": Harmless((False,), "only Linear layers are adapted, and those of GPT-2 (Conv1D) are not"),
    "bias": Harmless(("none",), "biases belong to the base, which all jobs share; adapt more modules instead"),
    "modules_to_save": Harmless(([],), "whole modules of the base are not trained; use target_modules and a higher r"),
    "megatron_config": Harmless((), "bases are those of transformers"),
    "megatron_core": ANY,  # read with megatron_config only
    "trainable_token_indices": Harmless(([],), "embeddings belong to the base all jobs share; use target_modules"),
    "loftq_config": Harmless(({},), "LoftQ rewrites the base, which all jobs share; use init_lora_weights: true"),
    "eva_config": Harmless((), "EVA measures the base first; use init_lora_weights: true, gaussian or orthogonal"),
    "corda_config": Harmless((), "CorDA rewrites the base, which all jobs share; use init_lora_weights: true"),
    "lora_ga_config": Harmless((), "LoRA-GA rewrites the base, which all jobs share; use init_lora_weights: true"),
    "use_dora": Harmless((False,), "DoRA is not trained; plain LoRA with use_rslora or a higher r comes closest"),
    "velora_config": Harmless((), "VeLoRA is not trained; use plain LoRA"),
    "alora_invocation_tokens": Harmless((), "activated LoRA is not trained; use plain LoRA"),
    "use_qalora": Harmless((False,), "bases are not quantized here; use plain LoRA"),
    "qalora_group_size": ANY,  # read with use_qalora only
    "monteclora_config": Harmless((), "MonteCLoRA is not trained; use lora_dropout against overfitting"),
    "layer_replication": Harmless(([],), "the base is shared as it is; make a base with the layers you want"),
    "runtime_config": Harmless(({}, {"ephemeral_gpu_offload": False}), "memory is set in the cluster settings"),
    "lora_bias": Harmless((False,), "A and B have no bias here; use a higher r"),
    "target_parameters": Harmless(([],), "only modules are adapted; name them in target_modules"),
    "use_bdlora": Harmless((False,), "BD-LoRA is not trained; use plain LoRA"),
    "arrow_config": Harmless((), "Arrow routes between finished adapters; train them here and route with PEFT"),
    "kasa_config": Harmless((), "KaSA rewrites the base, which all jobs share; use plain LoRA"),
    "ensure_weight_tying": Harmless((False,), "embeddings and head are not adapted, so nothing needs to be tied"),
}

_SPEED = ANY  # how fast or in how much memory, never what: rows are packed and kernels fused here anyway
_ONE_DEVICE = "a job trains on one device, and hosts are added by the cluster settings"

TRAINING_ARGUMENTS: dict[str, Taken | Harmless] = {
    "per_device_train_batch_size": Taken("batch_size"),
    "num_train_epochs": Taken("num_epochs"),
    "max_steps": Taken("max_steps"),
    "learning_rate": Taken("learning_rate"),
    "lr_scheduler_type": Taken("lr_scheduler_type"),
    "lr_scheduler_kwargs": Taken("lr_scheduler_kwargs", is_nullable=True),
    "warmup_steps": Taken("warmup_steps"),
    "optim": Taken("optim"),
    "weight_decay": Taken("weight_decay"),
    "adam_beta1": Taken("adam_beta1"),
    "adam_beta2": Taken("adam_beta2"),
    "adam_epsilon": Taken("adam_epsilon"),
    "gradient_accumulation_steps": Taken("gradient_accumulation_steps"),
    "max_grad_norm": Taken("max_grad_norm"),
    "eval_strategy": Taken("eval_strategy"),
    "eval_steps": Taken("eval_steps", is_nullable=True),
    "save_strategy": Taken("save_strategy"),
    "save_steps": Taken("save_steps"),
    "seed": Taken("seed"),
    "data_seed": Taken("data_seed", is_nullable=True),
    "output_dir": Harmless((), "`--out DIR`, in Python `out`, says where results go, a folder for each job's name"),
    "optim_args": Harmless(("",), "use adam_beta1, adam_beta2 and adam_epsilon"),
    "optim_target_modules": Harmless(([],), "it belongs to GaLore and APOLLO; target_modules says what is trained"),
    "average_tokens_across_devices": ANY,
    "label_smoothing_factor": Harmless((0,), "the loss is plain cross entropy; use lora_dropout or weight_decay"),
    "bf16": Harmless((True, False, "auto"), "`dtype` at the top of the file says what the base computes in"),
    "bf16_full_eval": Harmless((True, False), "`dtype` at the top of the file says what the base computes in"),
    "fp16": Harmless((False, "auto"), "use dtype: bfloat16 or float32 at the top of the file"),
    "fp16_full_eval": Harmless((False,), "use dtype: bfloat16 or float32 at the top of the file"),
    "tf32": Harmless((False, "auto"), "use dtype: bfloat16 at the top of the file for speed"),
    "activation_checkpointing": _SPEED,
    "activation_checkpointing_kwargs": _SPEED,
    "gradient_checkpointing": _SPEED,
    "gradient_checkpointing_kwargs": _SPEED,
    "torch_compile": _SPEED,
    "torch_compile_backend": _SPEED,
    "torch_compile_mode": _SPEED,
    "use_liger_kernel": _SPEED,
    "liger_kernel_config": _SPEED,
    "use_cache": _SPEED,
    "torch_empty_cache_steps": _SPEED,
    "auto_find_batch_size": _SPEED,  # a packed row that does not fit is halved, the batch stays
    "neftune_noise_alpha": Harmless((0,), "no noise is added to embeddings; use lora_dropout"),
    "logging_strategy": ANY,  # every step is in metrics.jsonl
    "logging_steps": ANY,
    "logging_first_step": ANY,
    "log_on_each_node": ANY,
    "logging_nan_inf_filter": ANY,
    "include_num_input_tokens_seen": ANY,
    "log_level": ANY,
    "log_level_replica": ANY,
    "disable_tqdm": ANY,
    "report_to": Harmless(("none", ["none"], []), "every step is in metrics.jsonl and in Prometheus; use these"),
    "run_name": ANY,  # of report_to, as the four below
    "project": ANY,
    "trackio_space_id": ANY,
    "trackio_bucket_id": ANY,
    "trackio_static_space_id": ANY,
    "eval_delay": Harmless((0,), "use eval_steps: the first evaluation comes after that many steps"),
    "per_device_eval_batch_size": ANY,  # evaluations are packed; a row's loss depends on that row alone
    "prediction_loss_only": ANY,
    "eval_on_start": Harmless((False,), "use eval_steps: the first evaluation comes after that many steps"),
    "eval_do_concat_batches": ANY,
    "eval_use_gather_object": ANY,
    "eval_accumulation_steps": ANY,
    "include_for_metrics": ANY,  # of a compute_metrics function; evaluation here is the loss
    "batch_eval_metrics": ANY,
    "save_only_model": ANY,
    "save_on_each_node": ANY,
    "save_total_limit": ANY,  # bundles that nothing needs any more are deleted
    "enable_jit_checkpoint": ANY,
    "push_to_hub": Harmless((False,), "use `mlora-ray export`, then `hf upload`"),
    "hub_token": ANY,  # of push_to_hub, as the five below
    "hub_private_repo": ANY,
    "hub_model_id": ANY,
    "hub_strategy": ANY,
    "hub_always_push": ANY,
    "hub_revision": ANY,
    "load_best_model_at_end": Harmless((False,), "the last step's adapter is the result; use max_steps to end earlier"),
    "metric_for_best_model": ANY,  # of load_best_model_at_end
    "greater_is_better": ANY,
    "ignore_data_skip": Harmless((False,), "a job that is resumed goes on at its next row, to the same bits"),
    "restore_callback_states_from_checkpoint": ANY,
    "full_determinism": ANY,  # always
    "use_cpu": Harmless((False,), "use device_type: cpu"),
    "accelerator_config": Harmless(({},), _ONE_DEVICE),
    "parallelism_config": Harmless(({},), _ONE_DEVICE),
    "dataloader_drop_last": Harmless((False,), "a short last batch counts; use a batch_size that divides the rows"),
    "dataloader_num_workers": ANY,  # rows are tokenised once, before training
    "dataloader_pin_memory": ANY,
    "dataloader_persistent_workers": ANY,
    "dataloader_prefetch_factor": ANY,
    "dataloader_multiprocessing_context": ANY,
    "dataloader_in_order": ANY,
    "remove_unused_columns": ANY,
    "label_names": Harmless(([], ["labels"]), "use completion_only_loss to say which tokens the loss counts"),
    "train_sampling_strategy": Harmless(("random",), "rows are shuffled by the seed, and are never padded"),
    "length_column_name": ANY,
    "ddp_find_unused_parameters": ANY,  # of a job on several devices, as those below
    "ddp_bucket_cap_mb": ANY,
    "ddp_broadcast_buffers": ANY,
    "ddp_static_graph": ANY,
    "ddp_backend": ANY,
    "ddp_timeout": ANY,
    "fsdp": Harmless((False, "", []), _ONE_DEVICE),
    "fsdp_config": ANY,  # of fsdp
    "deepspeed": Harmless((False, ""), _ONE_DEVICE),
    "debug": Harmless(("", []), "use the log of `mlora-ray`"),
    "skip_memory_metrics": ANY,
    "do_train": ANY,
    "do_eval": ANY,
    "do_predict": Harmless((False,), "name the rows in eval"),
    "resume_from_checkpoint": Harmless((False,), "use `mlora-ray train FILE --out DIR --resume`"),
    "local_rank": ANY,
}

SFT_CONFIG: dict[str, Taken | Harmless] = {
    "dataset_text_field": Taken("dataset_text_field"),
    "assistant_only_loss": Taken("assistant_only_loss"),
    "max_length": Taken("max_length"),
    "completion_only_loss": Taken("completion_only_loss", is_nullable=True),
    "model_init_kwargs": Harmless(({},), "use base and dtype at the top of the file"),
    "trust_remote_code": Harmless((False,), "use a base that transformers loads without code of its own"),
    "router_aux_loss_coef": Harmless((0,), "the loss is plain cross entropy"),
    "chat_template_path": Harmless((), "put the template into the base's directory as chat_template.jinja"),
    "dataset_kwargs": Harmless(({},), "rows are read as docs/job-file.md says"),
    "dataset_num_proc": ANY,
    "eos_token": Harmless((), "the base's tokenizer and chat template end a row"),
    "truncation_mode": Harmless(("keep_start",), "rows that are too long lose their end"),
    "shuffle_dataset": ANY,  # rows are shuffled anew in each data pass
    "packing": Harmless((False,), "rows are laid end to end without padding anyway, and batch_size counts rows"),
    "packing_strategy": ANY,  # of packing
    "padding_free": ANY,  # always
    "pad_to_multiple_of": ANY,
    "eval_packing": Harmless((False,), "rows are laid end to end without padding anyway"),
    "loss_type": Harmless(("nll", "chunked_nll"), "the loss is plain cross entropy"),
    "activation_offloading": _SPEED,
    "pad_token": ANY,
}

# What users of PEFT's LoRA+, axolotl and LLaMA-Factory write beside names that are ours or suggested (SYNONYMS).
OTHERS: dict[str, Taken | Harmless] = {
    "loraplus_lr_ratio": Taken("loraplus_lr_ratio"),
    "loraplus_lr_embedding": ANY,  # embeddings are not adapted
    "loraplus_weight_decay": Harmless((), "use weight_decay"),
    "group_by_length": Harmless((False,), "rows are never padded, so that grouping them by length gains nothing"),
    "adapter": Harmless(("lora",), "bases are not quantized here; use lora with dtype: bfloat16"),
    "stage": Harmless(("sft",), "jobs are supervised fine-tuning"),
    "finetuning_type": Harmless(("lora",), "adapters are LoRA; the base stays as it is"),
    "load_in_8bit": Harmless((False,), "bases are not quantized here; use dtype: bfloat16, one base serves all jobs"),
    "load_in_4bit": Harmless((False,), "bases are not quantized here; use dtype: bfloat16, one base serves all jobs"),
    "quantization_bit": Harmless((), "bases are not quantized here; use dtype: bfloat16, one base serves all jobs"),
    "lora_target_linear": Harmless((True,), "leave it out and name the modules in target_modules"),
    "lora_modules_to_save": Harmless(([],), "whole modules of the base are not trained; use target_modules"),
    "lora_fan_in_fan_out": Harmless((False,), "only Linear layers are adapted"),
    "sample_packing": Harmless((False,), "rows are laid end to end without padding anyway, and batch_size counts rows"),
    "pad_to_sequence_len": ANY,
    "flash_attention": _SPEED,
    "sdp_attention": _SPEED,
    "flash_attn": _SPEED,
    "attn_implementation": _SPEED,
    "train_on_inputs": Harmless((False,), "use completion_only_loss: false"),
    "val_set_size": Harmless((0,), "put the held-out rows into a file of their own and name it in eval"),
    "val_size": Harmless((0,), "put the held-out rows into a file of their own and name it in eval"),
    "template": Harmless((), "rows go through the base's own chat template"),
    "overwrite_output_dir": Harmless((False,), "use `mlora-ray train FILE --out DIR --overwrite`"),
    "overwrite_cache": ANY,
    "preprocessing_num_workers": ANY,
    "plot_loss": ANY,  # the report shows every loss
    "peft_use_dora": Harmless((False,), "DoRA is not trained; plain LoRA with use_rslora or a higher r comes closest"),
    "additional_target": Harmless((), "whole modules of the base are not trained; use target_modules and a higher r"),
    "wandb_project": Harmless(("",), "every step is in metrics.jsonl and in Prometheus; use these"),
}

FIELDS = LORA_CONFIG | TRAINING_ARGUMENTS | SFT_CONFIG | OTHERS


def is_harmless(field: Harmless, value: object) -> bool:
    """Whether a field at this value changes nothing. True is not 1, and false is not 0."""
    if value is None or not field.instead:
        return True
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in field.values)
