"""What a door leaves in the tests' process reaches no later test."""

import logging

from tests.conftest import root_log_as_before


def test_a_doors_log_ends_with_its_test(door, request):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    found = []

    def job(config):
        found.extend(root.handlers)
        logging.getLogger("src").info("said")

    with root_log_as_before():
        code, _, err = door(job, "benchmark")
    assert (code, "said" in err) == (0, True)
    assert found != before  # the door logs elsewhere
    assert (root.handlers, root.level) == (before, level)
    assert "_log_as_before" in request.fixturenames  # around every test
