"""`python -m tests.e2e.check`: the API's end-to-end tests against a running stack.

Reads INFERMESH_URL and INFERMESH_API_KEY, as the client commands do.
"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["INFERMESH_E2E_URL"] = os.environ.get("INFERMESH_URL", "http://127.0.0.1:8080")
    os.environ["INFERMESH_E2E_KEY"] = os.environ["INFERMESH_API_KEY"]
    sys.exit(pytest.main([str(Path(__file__).with_name("test_api.py")), "-q", *sys.argv[1:]]))
