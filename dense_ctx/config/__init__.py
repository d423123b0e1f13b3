"""Configurations: parts by name, one YAML reader, key=value, and mappings to frozen dataclasses."""

from .model_config import FORMAT_VERSION, ModelConfig
from .output import Output, Quantity
from .part import Part, Parts, parse_part, split_parts
from .reader import json_ready, override, split_setting, typed, unknown_keys
from .yaml_reader import dump_yaml, load_value, load_yaml

__all__ = [
    "FORMAT_VERSION", "ModelConfig", "Output", "Part", "Parts", "Quantity", "dump_yaml", "json_ready", "load_value",
    "load_yaml", "override", "parse_part", "split_parts", "split_setting", "typed", "unknown_keys",
]  # fmt: skip
