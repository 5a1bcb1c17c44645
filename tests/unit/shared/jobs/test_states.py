from finery.jobs.v1.jobs_pb2 import JobState
from finery_shared.jobs.states import FINAL, FOLLOWS, state_name


def test_every_state_but_unspecified_has_its_successors() -> None:
    assert set(FOLLOWS) == set(JobState.values()) - {JobState.JOB_STATE_UNSPECIFIED}
    assert {state for state, after in FOLLOWS.items() if not after} == set(FINAL)
    assert state_name(JobState.JOB_STATE_CANCELLING) == "CANCELLING"
