import pytest

from tests.storm import storm, undisturbed_run

pytestmark = pytest.mark.nextflow


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """The folder of an undisturbed run, and its arguments."""
    folder = tmp_path_factory.mktemp("storm") / "golden"
    return folder, undisturbed_run(folder)


@pytest.mark.parametrize("redraw_budget", [False, True], ids=["one budget", "redrawn budgets"])
def test_a_storm_of_25_kills_at_random_instants_changes_no_result(tmp_path, golden, redraw_budget, say):
    say(storm(tmp_path, *golden, 25, redraw_budget, seed=1))
