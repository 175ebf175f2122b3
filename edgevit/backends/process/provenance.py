"""Speed-up of lowering that leaves the output bytes unchanged: shortens torch's record of each graph node's origin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def without_provenance() -> Iterator[None]:
    """Let every node remember the node that it was made from, not that one's whole ancestry.

    torch copies the ancestry anew for every node in each of the sixty tracings of a lowering. It serves debuggers.
    """
    from torch.fx.traceback import NodeSource

    def remember(self: Any, node: Any, pass_name: str = "", action: Any = None) -> None:
        self.pass_name = pass_name
        self.action = action if isinstance(action, list) else [] if action is None else [action]
        self.node_info = (
            self.NodeInfo(name=node.name, target=str(node.target), graph_id=id(node.graph)) if node else None
        )
        self.from_node = []
        self._action_string = self._dict = None

    with patch.object(NodeSource, "__init__", remember):
        yield
