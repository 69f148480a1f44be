"""By what a run folder knows that it is of the same run."""

from segal.jobs.reference import SelectionLabels
from segal.jobs.select import _identity
from segal.jobs.strategies import configure_selection


def test_new_keys_of_a_network_change_no_selection_that_does_not_give_them():
    def network(**given):
        config, strategy = configure_selection(
            {"images": "i", "out": "o", "budget": "5%", "strategy": {"name": "random"}}
            | {"model": given}
        )
        return _identity(config, SelectionLabels.open(config, strategy))["model"]

    # As of before there were `options` and `state`.
    assert network() == dict.fromkeys(
        ("architecture", "encoder", "num_classes", "mean", "std", "input_scale", "insert_dropout")
    )
    assert network(state="ema")["state"] == "ema"
    assert network(options={"encoder_depth": 4})["options"] == {"encoder_depth": 4}
