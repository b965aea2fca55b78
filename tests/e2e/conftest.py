"""Projects for whole runs."""

import shutil
from pathlib import Path

import pytest
from bad_files import write_bad_files
from e2e_project import Project, make_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llava: Path) -> Project:
    """A project whose run is done, with bad files among its images: tests copy it before they change it."""
    project = make_project(tmp_path_factory.mktemp("finished"), tiny_llava)
    images = project.home / "images"
    write_bad_files(images / "bad")
    shutil.copy(images / "000.jpg", images / "bad" / "copy.jpg")
    project.finish()
    return project


@pytest.fixture
def project(tmp_path: Path, tiny_llava: Path) -> Project:
    """A fresh project."""
    return make_project(tmp_path, tiny_llava)
