"""The jobs that copy nodes: commit, stream and mirror (``backup_job.py`` has the backup)."""
