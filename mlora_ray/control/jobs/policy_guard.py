"""A policy that raises or answers nonsense costs a decision, not the service."""

from __future__ import annotations

from mlora_ray.policies.contract import Policy, Refusal, validate_actions
from mlora_ray.policies.placement.fifo import Fifo
from mlora_ray.store.decision_log import log
from mlora_ray.types import Action, ClusterView, PolicyState, serialization


def safe_decide(
    policy: Policy, view: ClusterView, state: PolicyState
) -> tuple[list[Action], PolicyState, list[Refusal]]:
    """The policy's actions. Where it raises (then its state stays) or asks for what may not be, fifo decides this time.

    Answers (actions, the policy's state, what was refused).
    """
    name, refused = getattr(policy, "name", type(policy).__name__), list[Refusal]()
    try:
        asked, after = policy.decide(view, state)
        allowed, refused = validate_actions(view, list(asked))
        if serialization.loads(PolicyState, serialization.dumps(after)) != after:
            raise TypeError(f"its state is {after!r}, not a PolicyState of names and numbers")
        state = after
        if not refused:
            return allowed, state, []
        for refusal in refused:
            log.warning("policy=%s refused %s: %s; fifo decides", name, refusal.action, refusal.why)
    except Exception as error:  # noqa: BLE001 - a user's policy must not stop the run
        log.error("policy=%s raised %s: %s; fifo decides", name, type(error).__name__, error)
    actions, _ = Fifo().decide(view, PolicyState())
    return validate_actions(view, actions)[0], state, refused
