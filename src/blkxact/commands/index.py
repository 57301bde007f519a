"""Which module of this package has which command: what is needed to load only the one.

A command that is not listed is found as well, once all modules have been loaded. The test of the
table says what to put here.
"""

from __future__ import annotations

from typing import Final

INDEX: Final = {
    "block": """
        block_resize block_set_io_throttle blockdev-add blockdev-create blockdev-del
        x-blockdev-set-iothread
    """,
    "chain": """
        block-commit block-stream change-backing-file
    """,
    "command_line": """
        query-command-line-options
    """,
    "control": """
        human-monitor-command qmp_capabilities query-commands query-qmp-schema query-version
        quit
    """,
    "descriptors": """
        add-fd closefd getfd query-fdsets remove-fd
    """,
    "device": """
        device-sync-config device_add device_del
    """,
    "export": """
        block-export-add block-export-del nbd-server-add nbd-server-remove nbd-server-start
        nbd-server-stop query-block-exports
    """,
    "job": """
        block-job-cancel block-job-change block-job-complete block-job-dismiss block-job-finalize
        block-job-pause block-job-resume block-job-set-speed job-cancel job-complete job-dismiss
        job-finalize job-pause job-resume query-block-jobs query-jobs
    """,
    "machine": """
        balloon inject-nmi input-send-event migrate-set-capabilities query-accelerators
        query-acpi-ospm-status
        query-balloon query-chardev query-chardev-backends query-colo-status
        query-cpu-definitions query-cpu-model-expansion query-cpus-fast query-current-machine
        query-dirty-rate
        query-display-options query-dump query-dump-guest-memory-capability
        query-hotpluggable-cpus query-iothreads query-kvm query-machines query-memdev
        query-memory-devices query-memory-size-summary query-mice query-migrate
        query-migrate-capabilities query-migrate-parameters query-name query-pci
        query-pr-managers query-replay query-rx-filter query-sev query-sev-capabilities
        query-sev-launch-measure query-sgx query-sgx-capabilities query-spice query-stats
        query-stats-schemas query-target query-tpm query-tpm-models query-tpm-types query-uuid
        query-vcpu-dirty-limit query-vm-generation-id query-vnc query-vnc-servers
        query-xen-replication-status rtc-reset-reinjection screendump send-key system_wakeup
        x-accel-stats x-colo-lost-heartbeat x-exit-preconfig x-query-interrupt-controllers
        x-query-irq x-query-jit x-query-numa x-query-opcount x-query-profile x-query-ramblock
        x-query-rdma x-query-roms x-query-usb x-query-virtio
    """,
    "medium": """
        block-latency-histogram-set blockdev-change-medium blockdev-close-tray
        blockdev-insert-medium blockdev-open-tray blockdev-remove-medium eject
    """,
    "nodes": """
        block-set-write-threshold blockdev-set-active x-blockdev-amend x-blockdev-change
        x-debug-query-block-graph
    """,
    "mirror": """
        blockdev-mirror drive-mirror
    """,
    "qom": """
        object-add object-del qom-get qom-list qom-list-get qom-set
    """,
    "qom_types": """
        device-list-properties qom-list-properties qom-list-types
    """,
    "query": """
        query-block query-blockstats query-named-block-nodes x-debug-block-dirty-bitmap-sha256
    """,
    "reopen": """
        blockdev-reopen
    """,
    "run_state": """
        cont query-status set-action stop system_powerdown system_reset watchdog-set-action
    """,
    "snapshot": """
        blockdev-snapshot-delete-internal-sync snapshot-delete snapshot-load snapshot-save
    """,
    "trace_event": """
        trace-event-get-state trace-event-set-state
    """,
    "transaction": """
        block-dirty-bitmap-add block-dirty-bitmap-clear block-dirty-bitmap-disable
        block-dirty-bitmap-enable block-dirty-bitmap-merge block-dirty-bitmap-remove
        blockdev-backup blockdev-snapshot blockdev-snapshot-internal-sync blockdev-snapshot-sync
        drive-backup query-transactions transaction
    """,
    "yank": """
        query-yank yank
    """,
}
"""Module to the names of its commands; those of ``without_guest`` are in a table of its own."""
