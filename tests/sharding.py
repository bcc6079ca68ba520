"""A pytest plugin that says which tests xdist may part: files stay whole, and so does the stack."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Shares one running stack, which a second worker would have to start again.
WHOLE_FOLDER = "tests/e2e/"


class FileScheduling(LoadFileScheduling):
    """Sends a file's tests to one worker, so that its fixtures are set up once."""

    def _split_scope(self, nodeid: str) -> str:
        return WHOLE_FOLDER if nodeid.startswith(WHOLE_FOLDER) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Take the place of `--dist`."""
    return FileScheduling(config, log)
