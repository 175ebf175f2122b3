"""Write targets/schema.json: the JSON Schema of runtime and device files.

python tools/target_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from edgevit.schema.target import Device, Runtime

PATH = Path(__file__).parents[1] / "targets/schema.json"


def schema() -> str:
    """Both schemas in one document."""
    document = {"runtime": Runtime.model_json_schema(), "device": Device.model_json_schema()}
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema())
