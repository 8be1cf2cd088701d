"""The settings as they are in effect: what `glm-proxy check` and the operator's page show."""

from __future__ import annotations

import hashlib

import yaml

from proxy.config.models import Config


def digest(config: Config) -> str:
    """Tells settings from others, all defaults included; secrets are masked."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]


def effective(config: Config) -> str:
    """All settings as YAML, defaults included, secrets masked; it could be loaded again."""
    settings = config.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
