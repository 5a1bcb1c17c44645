"""Clients that were made for OpenAI, against real weights."""

import os
import subprocess

from tests.e2e.conftest import MODEL, ROOT, Stack


def test_langchain_and_litellm(stack: Stack) -> None:
    told = {"FINERY_CLIENTS_URL": stack.base_url, "FINERY_CLIENTS_MODEL": MODEL}
    python = ROOT / ".venvs" / "clients" / "bin" / "python"
    command = [str(python), "-m", "pytest", "-q", "tests/clients"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
