"""A test is found by its path: `a/b.py` has `tests/a/test_b.py`, or is named below under the test that runs it.

The lists shrink: who writes a test of a file's own takes its name out.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlora_ray"
MIRRORED_IN = ROOT / "tests"

# Test of the whole that these are parts of, or a neighbour's -> files, by room.
TESTED_BY_ANOTHER: dict[str, dict[str, str]] = {
    "api/test_examples.py": {"api": "cluster", "": "__init__"},
    "api/test_jobs.py": {"api": "configs"},
    "api/test_training.py": {"api": "callbacks drive results runs"},
    "actors/test_run.py": {"actors": "host host_connection local_cluster options placement ray_errors transport"},
    "e2e/test_ray_jobs.py": {
        "actors": "client connect",
        "cli": "explain export hosts jobs stop",
        "run": "remote watch",
    },
    "e2e/test_train.py": {"run": "cross_evaluation interrupt local options train"},
    "e2e/test_autoscaler.py": {"benchmarks": "autoscale"},
    "deploy/test_autoscaling.py": {"benchmarks": "fake_nodes"},
    "deploy/test_scrape.py": {"actors": "ray_metrics"},
    "deploy/test_spot_notice.py": {"actors": "spot_notice"},
    "deploy/test_status_page.py": {"gateway": "status_page"},
    "bases/test_resolve.py": {"bases": "embedded linear_shapes tiny_tokenizer"},
    "prepare/test_job_specs.py": {"bases": "target_modules", "prepare": "base_checks cost_estimate target_checks"},
    "benchmarks/test_peft_bench.py": {"cli": "bench", "benchmarks": "peft peft_contestants workloads"},
    "benchmarks/test_recovery_bench.py": {"benchmarks": "recovery"},
    "benchmarks/test_scale_bench.py": {"benchmarks": "fake_hosts scale"},
    "benchmarks/test_spot_bench.py": {"benchmarks": "spot"},
    "cli/test_app.py": {"cli": "train", "run": "directory finish", "": "errors"},
    "profiling/test_run.py": {"config/step_time_profiles": "reading", "profiling": "measure table"},
    "profiling/test_memory.py": {"profiling": "child_process"},
    "profiling/test_fit.py": {"profiling": "timing workload"},
    "config/test_peft_trl_fields.py": {"config": "schedule_fields"},
    "config/test_job_file.py": {
        "config": "field_types job_fields job_meaning yaml_lines",
    },
    "config/test_cluster_settings.py": {"config": "cluster_fields field_reader service_settings"},
    "control/test_service.py": {
        "control": "transport",
        "control/hosts": "managed_host",
        "control/jobs": "ownership state",
        "": "clock",
    },
    "control/jobs/test_placement.py": {"store": "decision_log"},
    "control/jobs/test_commits.py": {"store": "metrics_file"},
    "control/test_metrics.py": {"control": "metric_table"},
    "data/test_readers.py": {"data": "sources text_files"},
    "data/test_rendering.py": {"data": "conversation turn_spans"},
    "data/test_tokenization.py": {"data": "chat_template tokenized_rows"},
    "display/test_tables.py": {"display": "console host_table status_table"},
    "display/test_progress_view.py": {"display": "numbers"},
    "run/test_summary.py": {"display": "summary_table", "store": "run_files"},
    "engine/test_engine.py": {
        "data": "batch_sampler",
        "engine": "adapter_state admission engine_job lora_init optimizer packed_row packed_row_stats paging",
    },
    "engine/test_base_proof.py": {"bases": "tiny_config", "engine": "base_loading proof_cache"},
    "engine/test_correctness.py": {
        "engine": "adapter_layout base executor fused_modules gradient_buffers peft_format site_groups",
    },
    "engine/test_memory.py": {"engine": "memory_budget"},
    "engine/test_out_of_memory.py": {"engine": "evaluation"},
    "run/test_resume.py": {"engine": "numerics"},
    "host/test_runtime.py": {"host": "hosted_job mailbox progress_report throughput"},
    "host/test_snapshot_writer.py": {"host": "adapter_outputs", "store": "adapter_files files"},
    "host/test_loading.py": {"store": "tokenized_rows"},
    "kernels/test_native.py": {"kernels": "cross_entropy rowwise"},
    "kernels/test_attention.py": {"kernels": "packed_attention"},
    "kernels/test_grouped.py": {"kernels": "reference"},
    "policies/placement/test_baselines.py": {
        "policies/placement": "assignment backfill fixed_slots independent srpt_las tlora",
    },
    "policies/placement/test_rate_remaining.py": {
        "policies/placement": "colocation_group job_value slowest_percentile",
    },
    "policies/test_contract.py": {"policies/placement": "fifo rebalance"},
    "policies/scaling/test_autoscale.py": {"policies/scaling": "base_needs budget demand host_history"},
    "policies/spot/test_uniform_progress.py": {"policies/scaling": "baselines"},
    "policies/spot/test_on_time.py": {"policies/spot": "deadline_slack host_sharing zone_probing"},
    "report/test_page.py": {"report": "chart_style charts loss_chart run_data"},
    "run/test_submit.py": {"run": "new_service", "types": "job_identity"},
    "run/test_verify.py": {"run": "retrain"},
    "simulate/test_run.py": {"cli": "simulate", "simulate": "charts metrics replay report sweep tables"},
    "simulate/test_simulation.py": {
        "simulate": "bounds hosts_and_adapters results step_by_step synthetic workload",
    },
    "simulate/test_live_forecast.py": {"simulate": "explain"},
    "store/database/test_control_database.py": {
        "store/database": "commits hosts integrity jobs machine_numerics mapping transactions",
        "types": "hosts jobs messages records",
    },
    "store/database/test_connections.py": {"types": "database_url"},
    "store/database/test_schema.py": {"store/database/migrations/versions": "r0001_jobs r0002_services"},
}
# Measurements that a person starts and reads, and a command that only hands its options on: what they import is tested.
UNTESTED = {"benchmarks": "decision_time memory paging policies simulator_accuracy", "cli": "profile"}


def _files_with_logic() -> set[str]:
    """Files of the package that define a function, by their path below it, the linked rooms included."""
    found = set()
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        for path in (Path(folder) / name for name in names if name.endswith(".py")):
            if has_logic(path.read_text(encoding="utf-8")):
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


def has_logic(source: str) -> bool:
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(ast.parse(source)))


def _named(listed: dict[str, str]) -> list[str]:
    return [f"{room}/{name}.py".lstrip("/") for room, names in listed.items() for name in names.split()]


def _mirror(file: str) -> Path:
    return MIRRORED_IN / Path(file).parent / f"test_{Path(file).name}"


FILES = _files_with_logic()
NAMED = [file for listed in (*TESTED_BY_ANOTHER.values(), UNTESTED) for file in _named(listed)]


def test_every_file_with_logic_has_a_test_of_its_name_or_is_named() -> None:
    assert sorted(file for file in FILES if not _mirror(file).exists() and file not in NAMED) == []


def test_what_is_named_is_there_once_and_has_no_test_of_its_name() -> None:
    assert sorted(set(NAMED) - FILES) == [], "no such file with logic"
    assert sorted(file for file in set(NAMED) if NAMED.count(file) > 1) == [], "named twice"
    assert sorted(file for file in NAMED if _mirror(file).exists()) == [], "has a test of its own now"
    assert [test for test in TESTED_BY_ANOTHER if not (MIRRORED_IN / test).exists()] == [], "no such test"


def test_a_file_of_facts_alone_has_no_logic() -> None:
    assert not has_logic("import json\nLIMIT = 3\nclass Fact:\n    size: int\n")
    assert has_logic("class Fact:\n    def double(self): ...\n")
