"""A job's claim on the bitmap it took its list of clusters from, and how it is given up.

Invariants:

* A claim freezes its bitmap: a successor records from now on. Claims of the same transaction may
  share a bitmap; it thaws when the last of them is settled.
* A claim is settled once. *Abdicate*: the backup is good, the successor takes the name. *Reclaim*:
  the successor is merged back and nothing is forgotten. One failure among the claims that share a
  bitmap means reclaim.
* The claim of a job that never started is withdrawn, and the bitmap is as it was.

QEMU's counterpart: backup_cleanup_sync_bitmap() in ``block/backup.c``.
"""

from __future__ import annotations

from blkxact.bitmap import DirtyBitmap
from blkxact.enums import BitmapOutcome, BitmapSyncMode

from .txn import BitmapFate, JobTxn


class BitmapClaim:
    """One job's claim on ``bitmap``, which belongs to node ``node_name``."""

    def __init__(
        self, node_name: str, bitmap: DirtyBitmap, mode: BitmapSyncMode, txn: JobTxn
    ) -> None:
        self.node_name = node_name
        self.bitmap = bitmap
        self.mode = mode
        self._txn = txn
        self._settled = False
        self._ret = 0
        self._uncopied: DirtyBitmap | None = None
        txn.points.hit("bitmap.freeze", node=node_name, bitmap=bitmap.name)
        bitmap.freeze(self, group=txn)
        txn.on_complete(self._transaction_over)

    def withdraw(self) -> None:
        """Give the bitmap back as it was: the job never started."""
        self._settle_once()
        self.bitmap.settle(self, success=False)

    def job_ended(self, ret: int, uncopied: DirtyBitmap) -> None:
        """Settle by the job's return code, or wait for that of the whole (deferred).

        ``uncopied`` is what the job has not copied. With ``always`` the bitmap follows the target
        after a failure as well, and what is not there stays dirty.
        """
        self._ret, self._uncopied = ret, uncopied
        if not self._txn.policy.bitmaps_wait_for_all:
            self._settle(ret)

    def _transaction_over(self, ret: int) -> None:
        """Settle now at the latest, by the job's failure or else by the result of the whole."""
        if not self._settled:
            self._settle(self._ret or ret)

    def _settle(self, ret: int) -> None:
        self._settle_once()
        follows = self.mode is BitmapSyncMode.ALWAYS
        sync = follows or (not ret and self.mode is BitmapSyncMode.ON_SUCCESS)
        leftover = self._uncopied if ret and sync else None
        outcome = self.bitmap.settle(self, success=sync, uncopied=leftover)
        if outcome is not None:
            self._txn.points.hit(f"bitmap.{outcome}", node=self.node_name, bitmap=self.bitmap.name)
            fate = BitmapOutcome.KEPT if self.mode is BitmapSyncMode.NEVER else outcome
            self._txn.record_fate(BitmapFate(self.node_name, self.bitmap.name or "", fate))

    def _settle_once(self) -> None:
        assert not self._settled, f"bitmap '{self.bitmap.name}' is settled already"
        self._settled = True
