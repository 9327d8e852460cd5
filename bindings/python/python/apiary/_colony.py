"""What `status` and its like say, from the facts that a node tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Facts = dict[str, Any]

_SETPOINT = 0.5
"""The temperature that a node aims at."""


def status(facts: Facts, storage: str) -> dict[str, Any]:
    """The node itself."""
    cache = facts["cache"] or {"limit_bytes": 0}
    return {
        "name": facts["name"],
        "node_id": facts["node_id"],
        "cores": len(facts["bees"]),
        "memory_gb": facts["memory_bytes"] / (1 << 30),
        "bees": len(facts["bees"]),
        "storage": _kind(storage),
        "memory_per_bee_mb": facts["memory_per_bee_bytes"] >> 20,
        "target_cell_size_mb": facts["target_cell_bytes"] >> 20,
        "cache_size_mb": cache["limit_bytes"] >> 20,
    }


def bees(facts: Facts) -> list[dict[str, Any]]:
    """Its bees; sizes in bytes."""
    return [
        {
            "bee_id": bee["bee_id"],
            "state": bee["state"],
            "memory_used": bee["memory_used_bytes"],
            "memory_budget": bee["memory_budget_bytes"],
        }
        for bee in facts["bees"]
    ]


def swarm(facts: Facts, others: Sequence[Facts]) -> dict[str, Any]:
    """It and the others, and what those that are alive have together."""
    nodes = [_itself(facts), *map(_other, others)]
    alive = [node for node in nodes if node["state"] == "alive"]
    return {
        "nodes": nodes,
        "total_bees": sum(node["bees"] for node in alive),
        "total_idle_bees": sum(node["idle_bees"] for node in alive),
        "alive": len(alive),
    }


def _itself(facts: Facts) -> dict[str, Any]:
    used = sum(bee["memory_used_bytes"] for bee in facts["bees"])
    budget = sum(bee["memory_budget_bytes"] for bee in facts["bees"])
    return {
        "node_id": facts["node_id"],
        "state": "alive",
        "bees": len(facts["bees"]),
        "idle_bees": sum(bee["state"] == "idle" for bee in facts["bees"]),
        "memory_pressure": used / budget if budget else 0.0,
        "colony_temperature": facts["temperature"],
    }


def _other(node: Facts) -> dict[str, Any]:
    state = node["state"]
    return {
        "node_id": node["node_id"],
        "state": state if state in ("alive", "suspect", "dead") else "suspect",
        "bees": node.get("bees", 0),
        "idle_bees": node.get("idle_bees", 0),
        "memory_pressure": node.get("memory_pressure", 0.0),
        "colony_temperature": node.get("temperature", 0.0),
    }


def colony(facts: Facts) -> dict[str, Any]:
    """How busy it is."""
    return {
        "temperature": facts["temperature"],
        "regulation": facts["regulation"],
        "setpoint": _SETPOINT,
        "abandoned_tasks": facts["abandoned_tasks"],
    }


def _kind(storage: str) -> str:
    scheme, separator, _ = storage.partition("://")
    if not separator or scheme in ("local", "file"):
        return "local"
    return "s3" if scheme == "s3a" else scheme
