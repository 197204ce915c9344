"""Work on more images than fit into one command's memory: shard by shard, on this machine or on a cluster.

    headstart.scale.make_predict_fn(run)      bytes of images -> predictions, for jobs of your own
    headstart.scale.ShardWorker(job)          makes parts in a process that may die

`headstart predict --shards` and `embed --shards` use the same workers.
"""

from __future__ import annotations

from headstart.scale.predict_fn import make_predict_fn
from headstart.scale.shard_worker import ShardWorker

__all__ = ["ShardWorker", "make_predict_fn"]
