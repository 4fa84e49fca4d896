"""What the tests of engines share."""

from pathlib import Path

import pytest

from tests.support.etcd_cluster import binary_params


@pytest.fixture(params=binary_params())
def program(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param
