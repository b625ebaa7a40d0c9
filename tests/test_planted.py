"""What faults are planted into is there: only slow tests would miss a name that moved."""

import importlib
from operator import attrgetter

import pytest

from tests.faults.planted import PLACES


@pytest.mark.parametrize("place", PLACES)
def test_a_place_of_faults_is_there(place):
    module, path, _ = PLACES[place]
    assert callable(attrgetter(path)(importlib.import_module(module)))
