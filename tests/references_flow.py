"""The loss of a flow of hidden states; its loop stands in tests/methods/test_rlfr.py."""

from policyopt.objective.flow import HiddenFlowMatching

REFERENCES = {
    HiddenFlowMatching: "test_rlfr::test_the_flow_learns_from_right_rows_only_and_sends_nothing_to_the_policy"
}
