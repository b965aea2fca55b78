"""Projects for whole runs."""

from pathlib import Path

import pytest
from e2e_project import Project, make_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llava: Path) -> Project:
    """A project whose run is done: tests copy it before they change it."""
    project = make_project(tmp_path_factory.mktemp("finished"), tiny_llava)
    project.finish()
    return project


@pytest.fixture
def project(tmp_path: Path, tiny_llava: Path) -> Project:
    """A fresh project."""
    return make_project(tmp_path, tiny_llava)
