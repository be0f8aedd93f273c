"""Why Flower's SecAgg+ does not carry these weights: fails when that changes, and docs/privacy.md must follow."""

from __future__ import annotations

import inspect

import pytest
from flwr.app import Context, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.serverapp.strategy import Strategy

from collafuse_flwr.client_app import app as client_app
from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid


def test_the_servers_side_takes_no_context_but_that_of_the_former_api() -> None:
    grid = LocalGrid(client_app, begin_run(), {}, 1)
    with pytest.raises(TypeError, match="Expect a LegacyContext"):
        SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2)(grid, Context(1, 1, {}, RecordDict(), {}))
    assert not [name for name, _ in inspect.getmembers(Strategy) if "sec" in name.lower() or "mask" in name.lower()]


def test_the_clients_side_takes_no_reply_but_that_of_the_former_api() -> None:
    """One list of parameters and a count, and it empties whatever other arrays a reply has: a hybrid's upload, too."""
    source = inspect.getsource(secaggplus_mod)
    assert "recorddict_to_fitres" in source
    assert "for arr_record in out_content.array_records.values():\n            arr_record.clear()" in source
